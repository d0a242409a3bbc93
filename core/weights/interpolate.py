"""Between two sets of weights of one model (Wortsman et al. 2021, WiSE-FT, arXiv:2109.01903)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["interpolated"]


def interpolated(before: Mapping[str, Tensor], after: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return ``(1 - share) * before + share * after`` of each tensor; what isn't a real number is taken from ``after``.

    Raises:
        InputError: if they don't have the same tensors.
    """
    differ = sorted(
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or before[name].shape != after[name].shape
    )
    if differ:
        raise InputError(f"the models have different shapes: {differ[0]} and {len(differ) - 1} other tensors differ")
    return {
        name: torch.lerp(before[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in after.items()
    }
