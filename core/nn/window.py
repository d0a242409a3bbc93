"""Attention inside windows of a grid, shifted or not (Swin, arXiv:2103.14030)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context import Ctx, Tokens
from .position import grid_coords

__all__ = ["RollThenPad", "Windowed"]


class Windowed(nn.Module):
    """Apply ``fn`` to each window of (B, H, W, C) by itself.

    Sizes that the window does not divide are padded with zeros that take part, as the published models were trained.
    A shifted grid is then rolled, so that its border windows hold tokens from opposite edges: those get different
    segments and do not see each other. An axis no longer than the window is one window, without shift. This is what
    the authors' detection code, torchvision and transformers do; for timm see :class:`RollThenPad`.

    Args:
        fn: maps (x, ctx) to x: attention whose position bias reads coordinates within the window.
        size: of a window, (height, width).
        shift: of the grid, (height, width).
    """

    def __init__(self, fn: nn.Module, size: tuple[int, int], shift: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.fn = fn
        self.size = size
        self.shift = shift

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        rows, size = x.shape[0], (x.shape[1], x.shape[2])
        x, shift = self._enter(x)
        height, width = x.shape[1:3]
        h, w = self.size
        tokens = Tokens(coords=grid_coords(self.size, x.device))
        if any(shift):
            regions = _regions((height, width), shift, x.device)
            tokens = tokens._replace(segment=_windows(regions[None, ..., None], self.size)[..., 0].repeat(rows, 1))
        y = self.fn(_windows(x, self.size), ctx._replace(tokens=tokens))
        # (B * windows, h * w, C) -> (B, H, W, C)
        y = y.reshape(rows, height // h, width // w, h, w, -1).transpose(2, 3).reshape(rows, height, width, -1)
        return self._leave(y, size, shift)

    def _enter(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        shift = (self.shift[0] if x.shape[1] > self.size[0] else 0, self.shift[1] if x.shape[2] > self.size[1] else 0)
        return _rolled(_padded(x, self.size), (-shift[0], -shift[1])), shift

    def _leave(self, y: Tensor, size: tuple[int, int], shift: tuple[int, int]) -> Tensor:
        return _rolled(y, shift)[:, : size[0], : size[1]]


class RollThenPad(Windowed):
    """Windows as timm makes them: the grid is rolled first and padded then, and the shift stays on short axes.

    Equal to :class:`Windowed` wherever the window divides the grid. Where it does not, some tokens from opposite edges
    see each other: only for results that must agree with timm's at such sizes.
    """

    def _enter(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return _padded(_rolled(x, (-self.shift[0], -self.shift[1])), self.size), self.shift

    def _leave(self, y: Tensor, size: tuple[int, int], shift: tuple[int, int]) -> Tensor:
        return _rolled(y[:, : size[0], : size[1]], shift)


def _padded(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad (B, H, W, C) with zeros to multiples of the window."""
    right, below = -x.shape[2] % size[1], -x.shape[1] % size[0]
    return F.pad(x, (0, 0, 0, right, 0, below)) if right or below else x


def _rolled(x: Tensor, shift: tuple[int, int]) -> Tensor:
    return x.roll(shift, (1, 2)) if any(shift) else x


def _windows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W, C) -> (B * windows, h * w, C)."""
    rows, height, width, channels = x.shape
    h, w = size
    x = x.reshape(rows, height // h, h, width // w, w, channels).transpose(2, 3)
    return x.reshape(-1, h * w, channels)


def _regions(grid: tuple[int, int], shift: tuple[int, int], device: torch.device) -> Tensor:
    """Number the parts (H, W) of a rolled grid that were neighbours before it was rolled."""
    part = [
        (torch.arange(n, device=device) >= n - s).long() if s else torch.zeros(n, dtype=torch.long, device=device)
        for n, s in zip(grid, shift, strict=True)
    ]
    return 2 * part[0][:, None] + part[1][None]
