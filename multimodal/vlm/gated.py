"""A language model that looks at pictures between its own blocks: Flamingo (arXiv:2204.14198), Idefics (2306.16527).

Before some of the decoder's blocks stand two branches more: attention to the picture, and a feed-forward branch, each
behind a gate that is shut at first, so that the language model begins as it was. A token looks at the latest picture
before it, and at none if there is none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from core.nn import (
    Block,
    Cache,
    Ctx,
    Growing,
    LayerNorm,
    Mask,
    Memory,
    Out,
    Residual,
    RMSNorm,
    Slot,
    Stack,
    SwiGLU,
    Tokens,
    coordinates,
    cross_attention,
)
from core.nn.mask import View
from multimodal.decoder import Decoder, DecoderConfig
from multimodal.vlm.placing import check_counts

__all__ = ["Gate", "GatedConfig", "GatedVisionLanguageModel", "Latest", "Look"]

SPAN = 1 << 32  # longer than any text


@dataclass(frozen=True)
class Latest(Mask):
    """A token sees those keys whose index is the greatest that is not beyond its own: those of the latest picture."""

    def keep(self, q: View, k: View) -> Tensor:
        """Keep the pairs with keys of the latest index."""
        seen = torch.where(k.order <= q.order, k.order, -1)
        latest = seen.amax(-1, keepdim=True)
        return (seen == latest) & (latest >= 0)


class Gate(nn.Module):
    """x * tanh(alpha): shut at first.

    Args:
        dim: width of the activations where each channel has an alpha; 1 for one alpha in all.
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to itself."""
        return x * self.alpha.tanh()


class Look(nn.Module):
    """Attention to the picture: queries have their place in the text for index, as the pictures have.

    Args:
        fn: the cross-attention, under the rule :class:`Latest`.
    """

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        # self-attention keeps its plain tokens, and so its fused kernels
        return self.fn(x, ctx._replace(tokens=_ordered(ctx.tokens, x)))


@dataclass(frozen=True)
class GatedConfig:
    """The branches that look; as they stand, Idefics-9b's.

    Attributes:
        every: the decoder's blocks 0, every, 2 * every, ... have them.
        memory_dim: width of the pictures' features.
        qk_norm: whether queries and keys are normalised head by head.
        alpha: one for all channels, or one for each.
    """

    every: int = 4
    memory_dim: int = 1280
    qk_norm: bool = True
    alpha: Literal["one", "each"] = "one"


class GatedVisionLanguageModel(nn.Module):
    """An eye, a resampler and a decoder with gated branches that look at what they give.

    Args:
        eye: maps pictures (I, C, H, W) to features (I, N, E).
        resampler: maps features to fewer (I, M, E); ``nn.Identity()`` for none.
        decoder: the language model, whose blocks get the branches.
        image_token: that stands where a picture comes in the text, once for each picture.
        gates: of the branches.
    """

    def __init__(
        self,
        eye: nn.Module,
        resampler: nn.Module,
        decoder: Decoder,
        image_token: int,
        gates: GatedConfig = GatedConfig(),
    ) -> None:
        super().__init__()
        self.eye = eye
        self.resampler = resampler
        self.decoder = decoder
        self.image_token = image_token
        self.gates = gates
        blocks = [
            _looking(block, decoder.config, gates) if number % gates.every == 0 else block
            for number, block in enumerate(decoder.blocks)
        ]
        decoder.blocks = Stack(blocks, run=decoder.blocks.run)

    def features(self, images: Tensor) -> Tensor:
        """Return what the decoder looks at of images (I, C, H, W): (I, M, E)."""
        return self.resampler(self.eye(images))

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (B, L, D) of tokens (B, L)."""
        return self.decoder.embed(ids)

    def memory(self, ids: Tensor, features: Sequence[Tensor] | Tensor, tokens: Tokens = Tokens()) -> Memory:
        """Return the pictures as the branches look at them, with their places in the text for index.

        Args:
            ids: (B, L), with one image token for each picture.
            features: (M, E) of each picture, in reading order over the rows.
            tokens: of the text, where its rows are padded or packed.

        Raises:
            InputError: if there are more or fewer pictures than image tokens.
        """
        check_counts(ids, self.image_token, [1] * len(features))
        rows, places = (ids == self.image_token).nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(ids)).tolist()
        most, each = max(*counts, 1), len(features[0]) if len(features) else 1
        width = features[0].shape[-1] if len(features) else self.gates.memory_dim
        x = (features[0] if len(features) else self.decoder.output).new_zeros(len(ids), most, each, width)
        order = _ordered(tokens, ids)
        facts = [torch.full((len(ids), most), -1, device=ids.device) for _ in range(2)]
        if len(features):
            # number of each picture in its own row
            at = rows, torch.cat([torch.arange(count, device=ids.device) for count in counts])
            x = x.index_put(at, torch.stack(list(features)))
            for fact, given in zip(facts, (order.index, order.segment), strict=True):
                if given is not None:
                    fact[at] = given.expand(len(ids), -1)[rows, places]
        index, segment = (fact.repeat_interleave(each, 1) for fact in facts)  # (B, images) -> (B, images * M)
        return Memory(x.flatten(1, 2), Tokens(index, None if order.segment is None else segment))

    def states(self, x: Tensor, ctx: Ctx = Ctx(), images: Tensor | None = None) -> Out:
        """Return the normalised states (B, L, D), with notes.

        Args:
            x: tokens (B, L), with a cache only those that it does not hold yet.
            ctx: with the :meth:`memory`, unless ``images`` are given or the cache has looked at them.
            images: of the image tokens, in reading order over the rows: (I, C, H, W).

        Raises:
            InputError: as :meth:`memory`.
        """
        start: int | Tensor = 0 if ctx.cache is None else ctx.cache.length
        first = ctx.cache is None or not int(start)
        if ctx.memory is None and first:
            features = () if images is None else self.features(images)
            ctx = ctx._replace(memory=self.memory(x, features, ctx.tokens))
        if ctx.tokens.coords is None and ctx.tokens.index is None:
            ctx = ctx._replace(tokens=ctx.tokens._replace(coords=coordinates(ctx.tokens, x, start)))
        return self.decoder.states(x, ctx)

    def logits(self, states: Tensor) -> Tensor:
        """Map states (..., D) to logits (..., vocab)."""
        return self.decoder.logits(states)

    def forward(self, x: Tensor, ctx: Ctx = Ctx(), images: Tensor | None = None) -> Out:
        """Return the logits (B, L, vocab), with notes; arguments as in :meth:`states`."""
        states, notes = self.states(x, ctx, images)
        return Out(self.logits(states), notes)

    def cache(self, make: Callable[[], Slot] = Growing) -> Cache:
        """Return an empty key/value cache, which also keeps the keys and values of the pictures."""
        return self.decoder.cache(make)


def _ordered(tokens: Tokens, x: Tensor) -> Tokens:
    """Where tokens stand, with the segments of packed rows one behind the other: the latest may be of another one."""
    order = coordinates(tokens, x) if tokens.index is None else tokens.index
    if tokens.segment is None:
        return Tokens(order)
    return Tokens(torch.where(order < 0, order, order + tokens.segment * SPAN), tokens.segment)


def _looking(block: nn.Module, shape: DecoderConfig, gates: GatedConfig) -> Block:
    dim = shape.dim
    norm = partial(RMSNorm if shape.norm == "rms" else LayerNorm, eps=shape.eps)

    def gate() -> Gate:
        return Gate(1 if gates.alpha == "one" else dim)

    attend = cross_attention(
        dim,
        shape.heads,
        memory_dim=gates.memory_dim,
        head_dim=shape.width,
        bias="",
        norm=norm if gates.qk_norm else None,
    )
    attend.mask = Latest()
    hidden = 4 * dim if shape.hidden is None else shape.hidden
    return Block(
        cross=Residual(norm(dim), Look(attend), gate()),
        dense=Residual(norm(dim), SwiGLU(dim, hidden), gate()),
        **dict(block.named_children()),
    )
