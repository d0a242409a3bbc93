"""Which of the steps of training a Gaussian sampler takes.

Sources: Lin et al. 2023 (arXiv:2305.08891), table 2; Nichol and Dhariwal 2021 (arXiv:2102.09672), section 4.
"""

from typing import Literal

import torch

from core.errors import InputError

from .solver import checked

__all__ = ["Spacing", "spaced"]

Spacing = Literal["linspace", "leading", "trailing"]


def spaced(total: int, steps: int, spacing: Spacing) -> list[int]:
    """Return `steps` of 0 .. total - 1, the last first.

    "linspace" has both the first and the last of them, as in the release of DiT; "leading" begins with the first,
    "trailing" ends with the last.

    Raises:
        InputError: if there are more steps than `total`, or the spacing is unknown.
    """
    checked(steps, total)
    if spacing == "linspace":
        found = torch.linspace(0, total - 1, steps, dtype=torch.float64) if steps > 1 else torch.tensor([total - 1.0])
        return found.round().long().flip(0).tolist()
    if spacing == "leading":
        return [number * (total // steps) for number in reversed(range(steps))]
    if spacing == "trailing":
        return [round(total - number * total / steps) - 1 for number in range(steps)]
    raise InputError(f"unknown spacing {spacing!r}: expected linspace, leading or trailing")
