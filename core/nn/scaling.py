"""Rotary positions beyond the length that was trained: how the frequencies change. Each gives those of one head."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .position import interpolated, ntk, rope_frequencies, yarn

__all__ = ["Linear", "Llama3", "Ntk", "Scaling", "Yarn", "scaled_frequencies"]


class Scaling(ABC):
    """How the frequencies of rotary positions change."""

    @abstractmethod
    def frequencies(self, dim: int, base: float) -> tuple[Tensor, float]:
        """Return the frequencies (dim/2,) of a head of width ``dim``, and the magnitude of cosine and sine."""


@dataclass(frozen=True)
class Linear(Scaling):
    """Position interpolation (arXiv:2306.15595): every frequency is divided by ``factor``."""

    factor: float

    def frequencies(self, dim: int, base: float) -> tuple[Tensor, float]:
        return interpolated(rope_frequencies(dim, base), self.factor), 1.0


@dataclass(frozen=True)
class Ntk(Scaling):
    """NTK-aware scaling: the base is raised so that the lowest frequency is divided by ``alpha``."""

    alpha: float

    def frequencies(self, dim: int, base: float) -> tuple[Tensor, float]:
        return ntk(dim, self.alpha, base), 1.0


@dataclass(frozen=True)
class Yarn(Scaling):
    """YaRN (arXiv:2309.00071).

    Attributes:
        factor: how many times longer than trained.
        original: the length trained on, in tokens.
        fast, slow: rotations within ``original`` above which a frequency is kept, and below which it is stretched.
        magnitude: of cosine and sine; default 0.1 ln(factor) + 1.
    """

    factor: float
    original: int
    fast: float = 32.0
    slow: float = 1.0
    magnitude: float | None = None

    def frequencies(self, dim: int, base: float) -> tuple[Tensor, float]:
        frequencies, magnitude = yarn(dim, self.factor, self.original, base, self.fast, self.slow)
        return frequencies, magnitude if self.magnitude is None else self.magnitude


@dataclass(frozen=True)
class Llama3(Scaling):
    """Llama 3.1's (arXiv:2407.21783; meta-llama ``models/llama3/model.py``): short waves stay, long ones stretch.

    Attributes:
        factor: by which the lowest frequencies are divided.
        original: the length trained on before, in tokens.
        low, high: rotations within ``original`` below which a frequency is divided, and above which it is kept; between
            them it is a mean of both.
    """

    factor: float
    original: int
    low: float = 1.0
    high: float = 4.0

    def frequencies(self, dim: int, base: float) -> tuple[Tensor, float]:
        plain = rope_frequencies(dim, base)
        rotations = self.original * plain / (2 * math.pi)
        kept = ((rotations - self.low) / (self.high - self.low)).clamp(0, 1)
        return torch.lerp(plain / self.factor, plain, kept), 1.0


def scaled_frequencies(dim: int, base: float, scaling: Scaling | None) -> tuple[Tensor, float]:
    """Return the frequencies (dim/2,) of a head of width ``dim``, and the magnitude of cosine and sine."""
    return (rope_frequencies(dim, base), 1.0) if scaling is None else scaling.frequencies(dim, base)
