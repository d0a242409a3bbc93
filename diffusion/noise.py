"""Noise for each sample of its own: what a sample is made of doesn't depend on the batch that it is in."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["MAX_SEED", "Noise"]

MAX_SEED = 2**63 - 1


class Noise:
    """Normal noise in which row i depends on ``seeds[i]`` and on how often it was asked for, and on nothing else.

    It is drawn on the processor in float32, so that a seed gives the same on every device.

    Args:
        seeds: of the rows, in [0, 2^63).
        shape: of a row.
        device: where the noise is wanted.

    Raises:
        InputError: if a seed is out of range.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        bad = [seed for seed in seeds if not 0 <= seed <= MAX_SEED]
        if bad:
            raise InputError(f"seed {bad[0]}: expected a number from 0 to {MAX_SEED}")
        self.shape, self.device = tuple(shape), device
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self) -> Tensor:
        """The next noise (B, *shape)."""
        rows = [torch.randn(self.shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device)
