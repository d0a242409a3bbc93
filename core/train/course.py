"""How a number moves in the course of a training: half a cosine, or a ramp that ends early."""

import math
from dataclasses import dataclass

from core.errors import InputError

__all__ = ["Cosine", "Ramp"]


@dataclass(frozen=True)
class Cosine:
    """From ``start`` to ``end`` along half a cosine over all optimizer steps (DINO, arXiv:2104.14294, section 3).

    Args:
        start: Value at the first step.
        end: Value that the last step comes close to.
    """

    start: float
    end: float

    def at(self, step: int, total: int) -> float:
        """The value at optimizer step ``step`` (from 0) of ``total``; beyond the end it stays."""
        progress = min(1.0, step / max(1, total))
        return self.end + 0.5 * (self.start - self.end) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Ramp:
    """From ``start`` to ``end`` along a line over the first ``share`` of all optimizer steps, then ``end``.

    Args:
        start: Value at the first step.
        end: Value after the ramp.
        share: Length of the ramp, of all optimizer steps.
    """

    start: float
    end: float
    share: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"share {self.share}: the part of the training that a ramp takes must be in [0, 1]")

    def at(self, step: int, total: int) -> float:
        """The value at optimizer step ``step`` (from 0) of ``total``."""
        length = self.share * total
        return self.end if step >= length else self.start + (self.end - self.start) * step / length
