"""What every process between data and noise has in common."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Process", "exact", "over"]


class Process(ABC):
    """How data becomes noise, what a model predicts on the way, and how far off it is.

    A time is whatever the model is told; ``end`` is the time of clean data. Every method takes t (B,), or () for all
    rows, and x (B, C, H, W).

    Attributes:
        end: the time at which nothing is left of the noise.
    """

    end: float

    @abstractmethod
    def times(self, draws: Tensor) -> Tensor:
        """Turn draws (B,), uniform in [0, 1), into times (B,) to train at."""

    @abstractmethod
    def level(self, t: Tensor) -> Tensor:
        """Return how far from data (0) to noise (1) the times t are, of t's shape, in float64."""

    @abstractmethod
    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares of data and of noise in x at the times t, of t's shape, in float64."""

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """Mix clean data and noise, (B, C, H, W) both, as they are at the times t."""
        t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        signal, sigma = (over(level, x0) for level in self.levels(t))
        return signal * x0 + sigma * noise

    @abstractmethod
    def loss(
        self, output: Tensor, x0: Tensor, x_t: Tensor, noise: Tensor, t: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what to minimise (B,), and its parts (B,) by name for the log.

        Args:
            output: of the model, (B, C or 2 C, H, W).
            x0: clean data.
            x_t: ``noised(x0, noise, t)``, which the model saw.
            noise: standard normal.
            t: (B,), from `times`.
        """

    @abstractmethod
    def clean(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the clean data (B, C, H, W) that the output of a model speaks of."""

    @abstractmethod
    def noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the noise (B, C, H, W) that the output of a model speaks of."""


def over(values: Tensor, x: Tensor) -> Tensor:
    """Give values (B,) or () the type of x (B, ...) and as many axes."""
    return values.to(x.dtype).reshape(values.shape + (1,) * (x.ndim - 1 if values.ndim else 0))


def exact(t: Tensor) -> Tensor:
    """Give times the widest type that their device has: coefficients near 0 and 1 are differences of near numbers."""
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)
