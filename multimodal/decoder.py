"""Decoder language models: Llama (arXiv:2302.13971), Qwen2 (arXiv:2407.10671), Qwen3 (arXiv:2505.09388), Mistral
(arXiv:2310.06825), Mixtral (arXiv:2401.04088), SmolLM2 (arXiv:2502.02737) and GPT-2, one class."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from core.nn import (
    Attention,
    Block,
    Cache,
    Causal,
    Ctx,
    GatedMlp,
    Growing,
    LayerNorm,
    LearnedPositions,
    Mask,
    MixtureOfExperts,
    Mlp,
    Out,
    Residual,
    RMSNorm,
    Rope,
    Slot,
    Stack,
    SwiGLU,
    TiedEmbedding,
    Window,
    attention,
    coordinates,
    direct,
    recomputed,
)
from core.nn.scaling import Scaling, scaled_frequencies

__all__ = ["Decoder", "DecoderConfig", "Experts"]


@dataclass(frozen=True)
class Experts:
    """The experts of a model that has them in place of one feed-forward branch; see `core.nn.MixtureOfExperts`.

    Attributes:
        count: how many there are in each block.
        active: how many a token goes through.
        hidden: width inside each.
        normalise: whether the weights of the active ones sum to 1.
    """

    count: int
    active: int
    hidden: int
    normalise: bool = True


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder; as it stands, that of SmolLM2-135M.

    Attributes:
        vocab: number of tokens.
        context: tokens that it was trained for; with learned positions it can't see more.
        dim, depth, heads: width, number of blocks, number of query heads.
        kv_heads: number of key/value heads, default ``heads``.
        head_dim: width of a head, default dim / heads.
        hidden: width of the feed-forward branch, default 4 * dim.
        norm, eps: RMSNorm or LayerNorm, and what it adds to the variance.
        mlp, mlp_bias: gated by SiLU, or GPT-2's two layers with the approximate GELU; whether they have a bias.
        bias: projections of the attention that have one, out of ``"qkvo"``.
        positions: rotary, or a learned table.
        theta, scaling: base of the rotary frequencies, and how they were changed for longer texts.
        qk_norm: whether queries and keys are normalised head by head (Qwen3).
        window, sinks: a token sees so many before it, itself included, and the first ``sinks`` of its text; None for
            all.
        window_layers: numbers of the blocks that have the window; None for all.
        tied: whether the embedding is the output layer.
        experts: in place of the feed-forward branch.
    """

    vocab: int = 49_152
    context: int = 8192
    dim: int = 576
    depth: int = 30
    heads: int = 9
    kv_heads: int | None = 3
    head_dim: int | None = None
    hidden: int | None = 1536
    norm: Literal["rms", "layer"] = "rms"
    eps: float = 1e-5
    mlp: Literal["swiglu", "gelu tanh"] = "swiglu"
    mlp_bias: bool = False
    bias: str = ""
    positions: Literal["rope", "learned"] = "rope"
    theta: float = 100_000.0
    scaling: Scaling | None = None
    qk_norm: bool = False
    window: int | None = None
    sinks: int = 0
    window_layers: tuple[int, ...] | None = None
    tied: bool = True
    experts: Experts | None = None

    def __post_init__(self) -> None:
        if self.experts is not None and (self.mlp != "swiglu" or self.mlp_bias):
            raise ValueError("experts are gated by SiLU and have no bias: leave mlp and mlp_bias as they are")
        if set(self.bias) - set("qkvo"):
            raise ValueError(f"bias {self.bias!r} should name projections out of 'qkvo'")

    @property
    def width(self) -> int:
        """Width of a head."""
        return self.dim // self.heads if self.head_dim is None else self.head_dim

    def sight(self, number: int) -> Mask:
        """Who sees whom in block ``number``."""
        if self.window is None or (self.window_layers is not None and number not in self.window_layers):
            return Causal()
        return Causal() & Window(self.window, self.sinks)


class Decoder(nn.Module):
    """A causal language model.

    Attributes:
        tokens: the embedding.
        head: the output layer, or None where that is the embedding; its weight is ``output`` in either case.

    Args:
        config: its shape.
        recompute: activation checkpointing: less memory in training for a third more time.
    """

    def __init__(self, config: DecoderConfig = DecoderConfig(), *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.tokens = TiedEmbedding(config.vocab, dim) if config.tied else nn.Embedding(config.vocab, dim)
        self.positions = LearnedPositions(config.context, dim) if config.positions == "learned" else None
        turn = _rotary(config) if config.positions == "rope" else None
        self.blocks = Stack(
            [_block(config, number, turn) for number in range(config.depth)], run=recomputed if recompute else direct
        )
        self.norm = _norm(config)(dim)
        self.head = None if config.tied else nn.Linear(dim, config.vocab, bias=False)
        _start(self)

    @property
    def output(self) -> Tensor:
        """The weight of the output layer (vocab, dim)."""
        return self.tokens.weight if self.head is None else self.head.weight

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (B, L, dim) of tokens (B, L) int64, without positions."""
        return self.tokens(ids)

    def states(self, x: Tensor, ctx: Ctx = Ctx()) -> Out:
        """Return the normalised states that :meth:`logits` are made of, (B, L, dim), with the notes of the stack.

        Args:
            x: tokens (B, L) int64, or embeddings (B, L, dim): with a cache, only those that it does not hold yet.
            ctx: where the tokens stand comes from ``tokens.coords``, else ``tokens.index``, else they follow those in
                the cache.

        Raises:
            ValueError: if there are more tokens than learned positions.
        """
        x = x if x.is_floating_point() else self.embed(x)
        if self.positions is not None:
            start: int | Tensor = 0 if ctx.cache is None else ctx.cache.length
            if isinstance(start, int) and ctx.tokens.coords is None and ctx.tokens.index is None:
                x = self.positions(x, start=start)
            else:
                x = self.positions(x, coordinates(ctx.tokens, x, start))
        x, notes = self.blocks(x, ctx)
        return Out(self.norm(x), notes)

    def logits(self, states: Tensor) -> Tensor:
        """Map states (..., dim) to logits (..., vocab)."""
        if self.head is not None:
            return self.head(states)
        assert isinstance(self.tokens, TiedEmbedding)
        return self.tokens.logits(states)

    def forward(self, x: Tensor, ctx: Ctx = Ctx()) -> Out:
        """Return the logits (B, L, vocab) of what follows each token of x, as :meth:`states` takes it, with notes."""
        states, notes = self.states(x, ctx)
        return Out(self.logits(states), notes)

    def cache(self, make: Callable[[], Slot] = Growing) -> Cache:
        """Return an empty key/value cache; ``make`` makes the slots."""
        return self.blocks.cache(make)


def _rotary(config: DecoderConfig) -> Rope:
    frequencies, magnitude = scaled_frequencies(config.width, config.theta, config.scaling)
    return Rope(frequencies, magnitude=magnitude)


def _norm(config: DecoderConfig) -> Callable[[int], nn.Module]:
    return partial(RMSNorm if config.norm == "rms" else LayerNorm, eps=config.eps)


def _block(config: DecoderConfig, number: int, turn: Rope | None) -> Block:
    dim, norm = config.dim, _norm(config)
    mine = attention(
        dim,
        config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        bias=config.bias,
        norm=norm if config.qk_norm else None,
        turn=turn,
        mask=config.sight(number),
    )
    return Block(attn=Residual(norm(dim), mine), mlp=Residual(norm(dim), _mlp(config)))


def _mlp(config: DecoderConfig) -> nn.Module:
    dim, hidden, experts = config.dim, config.hidden, config.experts
    if experts is not None:
        return MixtureOfExperts(dim, experts.hidden, experts.count, experts.active, normalise=experts.normalise)
    hidden = 4 * dim if hidden is None else hidden
    if config.mlp == "swiglu":
        return SwiGLU(dim, hidden, bias=config.mlp_bias)
    return Mlp(dim, hidden, act=nn.GELU("tanh"), bias=config.mlp_bias)


def _start(model: Decoder, std: float = 0.02) -> None:
    """Normal weights; those that end a branch are smaller by the root of the number of branches (GPT-2)."""
    ends = std / (2 * model.config.depth) ** 0.5
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, Attention):
            assert isinstance(module.out, nn.Linear)
            nn.init.normal_(module.out.weight, std=ends)
        elif isinstance(module, GatedMlp):
            nn.init.normal_(module.down.weight, std=ends)
        elif isinstance(module, Mlp):
            nn.init.normal_(module.fc2.weight, std=ends)
