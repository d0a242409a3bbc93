"""Paths of a flow from data (s = 0) to noise (s = 1): x = data(s) x0 + noise(s) noise.

Source: Ma et al. 2024, SiT (arXiv:2401.08740), section 2; Albergo et al. 2023 (arXiv:2303.08797).
"""

import math
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["GVP", "Linear", "Path"]


class Path(Protocol):
    """Shares of data and noise along the way and how fast they change; s in [0, 1] of any shape."""

    def shares(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares of data and of noise at s."""

    def slopes(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivatives of both shares by s."""


class Linear:
    """A straight line: data (1 - s), noise s."""

    def shares(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Path`."""
        return 1 - s, s

    def slopes(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Path`."""
        return -torch.ones_like(s), torch.ones_like(s)


class GVP:
    """A quarter of a circle, which keeps the variance of normalised data: data cos(pi s / 2), noise sin(pi s / 2)."""

    def shares(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Path`."""
        angle = s * (math.pi / 2)
        return angle.cos(), angle.sin()

    def slopes(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Path`."""
        angle = s * (math.pi / 2)
        return -(math.pi / 2) * angle.sin(), (math.pi / 2) * angle.cos()
