"""Attention inside windows of a grid, shifted or not (Swin, arXiv:2103.14030)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context import Ctx, Tokens
from .position import grid_coords

__all__ = ["Windowed"]


class Windowed(nn.Module):
    """Apply ``fn`` to each window of (B, H, W, C) by itself.

    A shifted grid is rolled, so that its border windows hold tokens from opposite edges: those get different segments
    and do not see each other. Sizes that the window does not divide are padded with zeros that take part, as the
    published models were trained. An axis no longer than the window is one window, without shift.

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
        rows, height, width, _ = x.shape
        h, w = self.size
        shift = (self.shift[0] if height > h else 0, self.shift[1] if width > w else 0)
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % h))
        padded = (x.shape[1], x.shape[2])
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        tokens = Tokens(coords=grid_coords(self.size, x.device))
        if any(shift):
            regions = _regions(padded, self.size, shift, x.device)
            tokens = tokens._replace(segment=_windows(regions[None, ..., None], self.size)[..., 0].repeat(rows, 1))
        y = self.fn(_windows(x, self.size), ctx._replace(tokens=tokens))
        # (B * windows, h * w, C) -> (B, H, W, C)
        y = y.reshape(rows, padded[0] // h, padded[1] // w, h, w, -1).transpose(2, 3).reshape(rows, *padded, -1)
        if any(shift):
            y = y.roll(shift, (1, 2))
        return y[:, :height, :width]


def _windows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W, C) -> (B * windows, h * w, C)."""
    rows, height, width, channels = x.shape
    h, w = size
    x = x.reshape(rows, height // h, h, width // w, w, channels).transpose(2, 3)
    return x.reshape(-1, h * w, channels)


def _regions(grid: tuple[int, int], size: tuple[int, int], shift: tuple[int, int], device: torch.device) -> Tensor:
    """Number the parts (H, W) of a rolled grid that were neighbours before it was rolled."""
    part = [
        (torch.arange(n, device=device) >= n - s).long() if s else torch.zeros(n, dtype=torch.long, device=device)
        for n, s in zip(grid, shift, strict=True)
    ]
    return 2 * part[0][:, None] + part[1][None]
