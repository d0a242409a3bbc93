"""The flows of data in which the blocks of Stable Diffusion 3 differ from :class:`core.nn.Streams`."""

from collections.abc import Iterable

from torch import Tensor, nn

from core.nn import AdaptiveNorm, Attention, Ctx, Modulation, OneSided, Streams, Tokens

__all__ = ["DualStreams", "LastStreams"]


class DualStreams(Streams):
    """Streams that meet, and beside that an attention of the first stream alone, both from the same x (3.5 medium).

    Args:
        modulations, fn: see :class:`core.nn.Streams`.
        second: modulation of the first stream for the attention of its own.
        own: the attention.
    """

    def __init__(self, modulations: Iterable[Modulation], fn: nn.Module, second: Modulation, own: Attention) -> None:
        super().__init__(modulations, fn)
        self.second = second
        self.own = own

    def forward(self, x: tuple[Tensor, ...], ctx: Ctx) -> tuple[Tensor, ...]:
        """Map a tuple of (B, L_i, D_i) to the same."""
        first, *others = super().forward(x, ctx)
        y, gate = self.second(x[0], ctx.cond)
        tokens = ctx.tokens if isinstance(ctx.tokens, Tokens) else ctx.tokens[0]
        return first + gate * self.own(y, ctx._replace(tokens=tokens)), *others


class LastStreams(nn.Module):
    """x + gate * fn(modulation(x), norm(text)) for the picture; the text stays as it is, for nobody reads it any more.

    Args:
        modulation: of the picture.
        norm: of the text.
        fn: attention of the picture to both.
    """

    def __init__(self, modulation: Modulation, norm: AdaptiveNorm, fn: OneSided) -> None:
        super().__init__()
        self.modulation = modulation
        self.norm = norm
        self.fn = fn

    def forward(self, x: tuple[Tensor, ...], ctx: Ctx) -> tuple[Tensor, ...]:
        """Map picture (B, L, D) and text (B, S, D) to the same."""
        picture, text = x
        y, gate = self.modulation(picture, ctx.cond)
        (y,) = self.fn((y, self.norm(text, ctx.cond)), ctx)
        return picture + gate * y, text
