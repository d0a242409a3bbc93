"""Several streams in one attention, each with weights of its own (MMDiT, arXiv:2403.03206)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import kernels
from .attention import Attention, captured, coordinates
from .context import Ctx, Tokens
from .mask import Full, Sight
from .norm import Modulation

__all__ = ["Joint", "OneSided", "Streams"]


class Joint(nn.Module):
    """Attention over the joined tokens of all streams.

    Args:
        parts: one :class:`Attention` per stream: its heads and its output are used, not its mask, bias or kernel.
        kernel: how to compute it.
    """

    def __init__(self, parts: Iterable[Attention], kernel: kernels.Kernel = kernels.attend) -> None:
        super().__init__()
        self.parts: Iterable[Attention] = nn.ModuleList(parts)  # type: ignore[assignment]
        self.kernel = kernel

    def forward(self, x: tuple[Tensor, ...], ctx: Ctx) -> tuple[Tensor, ...]:
        """Map a tuple of (B, L_i, D_i) to the same. ``ctx.tokens`` is one Tokens for each stream, or unset.

        Raises:
            ValueError: if ``ctx.tokens`` says something about one stream only.
        """
        each = _each(ctx.tokens, x)
        heads: list[tuple[Tensor, ...]] = []
        for part, stream, tokens in zip(self.parts, x, each, strict=True):
            coords = coordinates(tokens, stream)
            heads.append((part.q(stream, coords), part.k(stream, coords), part.v(stream)))
        q, k, v = (torch.cat(kind, 2) for kind in zip(*heads, strict=True))
        tokens = _joined(each, x)
        sight = Sight(Full() if ctx.mask is None else ctx.mask, tokens, tokens)
        if ctx.want is not None:
            ctx.notes["weights"] = captured(q, k, sight, ctx.bias, None, ctx.want)
        y = self.kernel(q, k, v, sight, ctx.bias, None).transpose(1, 2).flatten(2)
        parts = y.split([stream.shape[1] for stream in x], 1)
        return tuple(part.out(p) for part, p in zip(self.parts, parts, strict=True))


class OneSided(Joint):
    """Attention of the first stream over the tokens of all: the others only give keys and values."""

    def forward(self, x: tuple[Tensor, ...], ctx: Ctx) -> tuple[Tensor, ...]:
        """Map a tuple of (B, L_i, D_i) to one of (B, L_0, D_0) alone; ``ctx`` as in :class:`Joint`."""
        each = _each(ctx.tokens, x)
        places = [coordinates(tokens, stream) for tokens, stream in zip(each, x, strict=True)]
        parts = list(self.parts)
        q = parts[0].q(x[0], places[0])
        k = torch.cat([part.k(stream, at) for part, stream, at in zip(parts, x, places, strict=True)], 2)
        v = torch.cat([part.v(stream) for part, stream in zip(parts, x, strict=True)], 2)
        sight = Sight(Full() if ctx.mask is None else ctx.mask, each[0], _joined(each, x))
        if ctx.want is not None:
            ctx.notes["weights"] = captured(q, k, sight, ctx.bias, None, ctx.want)
        return (parts[0].out(self.kernel(q, k, v, sight, ctx.bias, None).transpose(1, 2).flatten(2)),)


class Streams(nn.Module):
    """x + gate * fn(modulation(x)) for several streams that meet in ``fn``.

    Args:
        modulations: one for each stream.
        fn: maps (tuple of streams, ctx) to the same: :class:`Joint`.
    """

    def __init__(self, modulations: Iterable[Modulation], fn: nn.Module) -> None:
        super().__init__()
        self.modulations = nn.ModuleList(modulations)
        self.fn = fn

    def forward(self, x: tuple[Tensor, ...], ctx: Ctx) -> tuple[Tensor, ...]:
        """Map a tuple of (B, L_i, D_i) to the same."""
        made = [m(stream, ctx.cond) for m, stream in zip(self.modulations, x, strict=True)]
        y = self.fn(tuple(stream for stream, _ in made), ctx)
        return tuple(s + gate * part for s, (_, gate), part in zip(x, made, y, strict=True))


def _each(tokens: tuple[Tokens, ...] | Tokens, x: tuple[Tensor, ...]) -> tuple[Tokens, ...]:
    """The tokens of each stream."""
    if not isinstance(tokens, Tokens):
        return tokens
    if any(fact is not None for fact in tokens):
        raise ValueError(f"ctx.tokens must be one Tokens for each of {len(x)} streams, not a single one")
    return (tokens,) * len(x)


def _joined(each: tuple[Tokens, ...], x: tuple[Tensor, ...]) -> Tokens:
    """Padding and segments of all streams, side by side; the streams have no order among each other."""

    def side_by_side(given: list[Tensor | None]) -> Tensor | None:
        if all(fact is None for fact in given):
            return None
        rows = max(1 if fact is None else fact.shape[0] for fact in given)
        whole = [
            torch.zeros(rows, s.shape[1], dtype=torch.long, device=s.device) if fact is None else fact.expand(rows, -1)
            for fact, s in zip(given, x, strict=True)
        ]
        return torch.cat(whole, 1)

    return Tokens(side_by_side([t.index for t in each]), side_by_side([t.segment for t in each]))
