"""Perceiver AR (Hawthorne et al. 2022, arXiv:2202.07765): a language model that reads far and thinks about the end.

The last tokens are latents. They read all tokens before them in one causal cross-attention, and go on among themselves
through a deep causal stack, whose cost doesn't depend on the length of the text.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.nn import (
    Attention,
    Block,
    Cache,
    Causal,
    CrossAttention,
    Ctx,
    Growing,
    Heads,
    LayerNorm,
    Memory,
    Mlp,
    Out,
    Residual,
    Rope,
    Slot,
    Stack,
    TiedEmbedding,
    Tokens,
    attention,
    direct,
    recomputed,
    rope_frequencies,
    trunc_normal,
)

__all__ = ["PerceiverAR", "PerceiverARConfig"]


@dataclass(frozen=True)
class PerceiverARConfig:
    """The shape of a Perceiver AR.

    Attributes:
        vocab: number of tokens.
        latents: how many of the last tokens of a text are latents.
        dim, depth, heads: width, blocks over the latents, heads.
        hidden: width of the feed-forward branches, default 4 * dim.
        theta: base of the rotary frequencies.
    """

    vocab: int = 262
    latents: int = 512
    dim: int = 512
    depth: int = 8
    heads: int = 8
    hidden: int | None = None
    theta: float = 10_000.0

    def __post_init__(self) -> None:
        if self.latents < 1 or self.heads < 1 or self.dim % (2 * self.heads):
            raise ValueError(
                f"latents {self.latents} must be at least 1, and {2 * self.heads} (two channels a head) divide the "
                f"width {self.dim}"
            )


class PerceiverAR(nn.Module):
    """A causal language model over a long text, computed for its last tokens.

    It is called as :class:`multimodal.decoder.Decoder` is, but returns states of the latents only.

    Args:
        config: its shape.
        recompute: activation checkpointing of the blocks over the latents.
    """

    def __init__(self, config: PerceiverARConfig = PerceiverARConfig(), *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        self.tokens = TiedEmbedding(config.vocab, config.dim)
        turn = Rope(rope_frequencies(config.dim // config.heads, config.theta))
        self.read = Stack([_read_block(config, turn)])
        blocks = (_block(config, turn) for _ in range(config.depth))
        self.blocks = Stack(blocks, run=recomputed if recompute else direct)
        self.norm = LayerNorm(config.dim)
        trunc_normal(self)
        nn.init.normal_(self.tokens.weight, std=0.02)

    @property
    def output(self) -> Tensor:
        """The weight of the output layer (vocab, dim)."""
        return self.tokens.weight

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (B, L, dim) of tokens (B, L) int64."""
        return self.tokens(ids)

    def states(self, x: Tensor, ctx: Ctx = Ctx(), latents: int | None = None) -> Out:
        """Return the normalised states of the last tokens of x, that :meth:`logits` are made of.

        Args:
            x: tokens (B, L) int64 or embeddings (B, L, dim): with a cache, only those that it does not hold yet.
            ctx: ``tokens.index`` numbers them, -1 for padding; by default they follow those in the cache.
            latents: how many of x are latents, by default the config's. Behind a filled cache all are: the number
                grows as text is written. Training should have seen as many.

        Returns:
            States (B, latents, dim), fewer where x is shorter, and the notes of the blocks over the latents.
        """
        x = x if x.is_floating_point() else self.embed(x)
        cache: _Cache | None = ctx.cache
        length = x.shape[1]
        count = min(length, self.config.latents if latents is None else latents)
        if cache is not None and cache.started:
            count = length
        tokens = _places(ctx.tokens, length, x.device, cache)
        tail = tokens.map(lambda fact: fact[:, length - count :])
        first, rest = (None, None) if cache is None else (cache.read, cache.rest)
        reading = Ctx(tail, Memory(x, tokens), cache=first)
        y = self.read(x[:, length - count :], reading).x
        y, notes = self.blocks(y, ctx._replace(tokens=tail, cache=rest))
        return Out(self.norm(y), notes)

    def logits(self, states: Tensor) -> Tensor:
        """Map states (..., dim) to logits (..., vocab)."""
        return self.tokens.logits(states)

    def forward(self, x: Tensor, ctx: Ctx = Ctx()) -> Out:
        """Return the logits (B, latents, vocab) of what follows each of the last tokens of x, with notes."""
        states, notes = self.states(x, ctx)
        return Out(self.logits(states), notes)

    def cache(self, make: Callable[[], Slot] = Growing) -> Cache:
        """Return an empty key/value cache; ``make`` makes the slots. One over the latents needs less room."""
        return _Cache(self.read.cache(make), self.blocks.cache(make))


class _Tail(CrossAttention):
    """Attention of the last tokens over all of them: what it reads grows with the text."""

    def slot(self, make: Callable[[], Slot]) -> Slot:
        """The slot of self-attention: new tokens are added to those before."""
        return make()


class _Cache(Cache):
    """The slots of the reading, which hold all tokens, and those of the latents."""

    def __init__(self, read: Cache, rest: Cache) -> None:
        super().__init__({"read": dict(read), "rest": dict(rest)})
        self.read = read
        self.rest = rest

    @property
    def started(self) -> bool:
        """Whether it holds something; known without reading the device."""
        length = self.read.length
        return not isinstance(length, int) or length > 0

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first ``length``: of the latents, those behind them."""
        before = int(self.read.length) - int(self.rest.length)
        self.read.truncate(length)
        self.rest.truncate(max(0, length - before))


def _places(given: Tokens, length: int, device: torch.device, cache: Cache | None) -> Tokens:
    """Where the tokens of x stand. Without padding or a cache masks know it by themselves, and kernels are faster."""
    if given.index is not None:
        return given
    start = 0 if cache is None else cache.length
    places = (torch.arange(length, device=device) + start)[None]
    return given._replace(coords=places) if cache is None else given._replace(index=places)


def _read_block(config: PerceiverARConfig, turn: Rope) -> Block:
    dim, heads = config.dim, config.heads
    width = dim // heads
    fn = _Tail(
        Heads(dim, heads, width, turn=turn),
        Heads(dim, heads, width, turn=turn),
        Heads(dim, heads, width),
        nn.Linear(dim, dim),
        pre=LayerNorm(dim),
        mask=Causal(),
    )
    return Block(cross=Residual(LayerNorm(dim), fn), mlp=Residual(LayerNorm(dim), Mlp(dim, config.hidden)))


def _block(config: PerceiverARConfig, turn: Rope) -> Block:
    dim = config.dim
    fn: Attention = attention(dim, config.heads, turn=turn, mask=Causal())
    return Block(attn=Residual(LayerNorm(dim), fn), mlp=Residual(LayerNorm(dim), Mlp(dim, config.hidden)))
