"""Norms of queries and keys that make attention compare directions (cosine attention)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ScaledUnit", "Unit"]


class Unit(nn.Module):
    """Divide by the Euclidean length: keys of cosine attention."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., d) to length 1."""
        return F.normalize(x, dim=-1)


class ScaledUnit(nn.Module):
    """Queries of cosine attention: length 1, times a learned factor of each head (arXiv:2111.09883, section 3.2).

    Args:
        heads: number of heads.
        init: the factor at first.
        most: what the factor is limited to.
    """

    def __init__(self, heads: int, init: float = 10.0, most: float = 100.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(init)))
        self.limit = math.log(most)

    def forward(self, x: Tensor) -> Tensor:
        """Scale (B, heads, L, d)."""
        return F.normalize(x, dim=-1) * self.log_scale.clamp(max=self.limit).exp()
