"""The learning rate at each optimizer step: linear warmup, then half a cosine (SGDR, arXiv:1608.03983)."""

import math
from dataclasses import dataclass

from core.errors import InputError

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Warmup and cosine decay, as factors of the peak learning rate.

    Args:
        warmup: Share of all optimizer steps in which the rate rises linearly from (almost) zero to its peak.
        floor: What remains of the peak at the end.
    """

    warmup: float = 0.05
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.warmup < 1 and 0 <= self.floor <= 1):
            raise InputError(f"warmup {self.warmup} must be in [0, 1) and floor {self.floor} in [0, 1]")

    def factor(self, step: int, total: int) -> float:
        """The factor for optimizer step ``step`` (from 0) of ``total``; beyond the end it stays at the floor."""
        rise = round(self.warmup * total)
        if step < rise:
            return (step + 1) / rise
        progress = min(1.0, (step - rise) / max(1, total - rise))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
