"""What published Swin checkpoints hold beside weights: tables that follow from the shape of a window."""

from collections.abc import Callable

import torch
from torch import Tensor

from core.nn import GridBuckets, grid_coords
from core.nn.continuous import log_displacements
from core.weights.rules import Derived

from .swin import Windows

__all__ = ["BUFFERS", "Built"]


class Built(Derived):
    """A tensor that follows from the config.

    Args:
        build: makes it; only called where a checkpoint has it.
    """

    def __init__(self, build: Callable[[], Tensor]) -> None:
        super().__init__()
        self.build = build

    def make(self, twin: Tensor | None) -> Tensor:
        """Return it."""
        return self.build()

    def flaw(self, theirs: Tensor, twin: Tensor | None) -> str | None:
        """It must have the values that the config leads to."""
        wanted = self.build().to(theirs.dtype)
        if theirs.shape != wanted.shape:
            return f"should have the shape {tuple(wanted.shape)}, not {tuple(theirs.shape)}"
        return None if torch.equal(theirs, wanted) else "should follow from the window, and does not"


def buckets(windows: Windows, span: int) -> Tensor:
    """``relative_position_index``: the bucket (N, N) of each pair in a window."""
    coords = grid_coords(windows.size, "cpu")
    return GridBuckets(windows.size)(coords, coords)[0]


def displacements(windows: Windows, span: int) -> Tensor:
    """``relative_coords_table`` of version 2: the log-spaced displacements (1, 2h - 1, 2w - 1, 2)."""
    height, width = windows.size
    table = log_displacements(windows.size, (span, span) if span else windows.size, "cpu")
    return table.unflatten(0, (2 * height - 1, 2 * width - 1))[None]


def hidden_pairs(windows: Windows, span: int) -> Tensor:
    """``attn_mask`` of a shifted grid: -100 where two tokens of a window may not see each other, (windows, N, N)."""
    (h, w), (down, right) = windows.size, windows.shift
    height, width = -(-windows.grid[0] // h) * h, -(-windows.grid[1] // w) * w
    # rolled by nothing, no row is from the other edge
    row = (torch.arange(height) >= height - down).long()
    column = (torch.arange(width) >= width - right).long()
    region = (2 * row[:, None] + column).unflatten(1, (-1, w)).unflatten(0, (-1, h))
    region = region.transpose(1, 2).reshape(-1, h * w)  # (H, W) -> (windows, N)
    return torch.where(region[:, None] == region[:, :, None], 0.0, -100.0)


BUFFERS: dict[str, Callable[[Windows, int], Tensor]] = {
    "relative_position_index": buckets,
    "relative_coords_table": displacements,
    "attn_mask": hidden_pairs,
}
"""How each is built, from the windows of a stage and the side of those that it was trained with, 0 for the same."""
