"""Schedules of the variance that each step of a Gaussian process adds.

Sources: Ho et al. 2020 (arXiv:2006.11239), linear; Nichol and Dhariwal 2021 (arXiv:2102.09672), cosine; Rombach et al.
2022 (arXiv:2112.10752), scaled linear.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["Schedule", "betas"]

Schedule = Literal["linear", "cosine", "scaled_linear"]

LARGEST = 0.999  # of the cosine schedule, whose last steps would else leave nothing


def betas(schedule: Schedule, steps: int) -> Tensor:
    """Return the variances (steps,) in float64.

    Linear schedules are stated for 1000 steps; with fewer, each adds as much as the steps that it stands for.

    Raises:
        InputError: if the schedule is unknown, or there are fewer than 2 steps.
    """
    if steps < 2:
        raise InputError(f"a Gaussian process of {steps} steps: expected 2 or more (1000 is usual)")
    if schedule == "linear":
        return torch.linspace(1e-4, 0.02, steps, dtype=torch.float64).mul(1000 / steps).clamp(max=LARGEST)
    if schedule == "scaled_linear":
        roots = torch.linspace(math.sqrt(0.00085), math.sqrt(0.012), steps, dtype=torch.float64)
        return roots.square().mul(1000 / steps).clamp(max=LARGEST)
    if schedule == "cosine":
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        bar = ((t + 0.008) / 1.008 * (math.pi / 2)).cos().square()
        return (1 - bar[1:] / bar[:-1]).clamp(max=LARGEST)
    raise InputError(f"unknown schedule {schedule!r}: expected linear, cosine or scaled_linear")
