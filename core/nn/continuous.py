"""The position bias of Swin v2: a small network of the displacement, so that it fits windows of any size."""

import math

import torch
from torch import Tensor, nn

from .position import GridBuckets, grid_coords

__all__ = ["ContinuousBias", "log_displacements"]


class ContinuousBias(nn.Module):
    """A bias for each head from log-spaced displacements (arXiv:2111.09883, section 3.3).

    A displacement along an axis is measured so that the far end of the window is 8, squeezed to
    sign(d) log2(1 + |d|) / 3, and mapped to each head by two layers; the bias is 16 times the sigmoid of that.

    Args:
        heads: number of heads.
        size: of the window, (height, width).
        trained: size of the window that the weights were trained with, where this one is larger; default ``size``.
        hidden: width between the two layers.
    """

    def __init__(
        self, heads: int, size: tuple[int, int], trained: tuple[int, int] | None = None, *, hidden: int = 512
    ) -> None:
        super().__init__()
        self.buckets = GridBuckets(size)
        self.span = size if trained is None else trained
        self.fc1 = nn.Linear(2, hidden)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden, heads, bias=False)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the bias (B or 1, heads, L, S) of coords q (B or 1, L, 2) and k (B or 1, S, 2)."""
        # once for each displacement that there is, not once for each pair
        steps = log_displacements(self.buckets.size, self.span, self.fc1.weight.device).to(self.fc1.weight.dtype)
        table = 16 * self.fc2(self.act(self.fc1(steps))).sigmoid()
        return table[self.buckets(q, k)].permute(0, 3, 1, 2)  # (B, L, S, h) -> (B, h, L, S)


def log_displacements(size: tuple[int, int], span: tuple[int, int], device: torch.device | str) -> Tensor:
    """Return the log-spaced displacements (count, 2) within a window, in the order of :class:`GridBuckets`, in float32.

    Args:
        size: of the window, (height, width).
        span: size of the window whose far end counts as 8.
        device: of the result.
    """
    height, width = size
    ends = torch.tensor([height - 1, width - 1], device=device)
    # a window of one token has the displacement 0 only
    far = torch.tensor([max(n - 1, 1) for n in span], device=device)
    steps = 8 * (grid_coords((2 * height - 1, 2 * width - 1), device)[0] - ends).float() / far
    return steps.sign() * (steps.abs() + 1).log2() / math.log2(8)
