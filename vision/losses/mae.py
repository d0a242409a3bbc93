"""The loss of MAE: the squared error of the pixels of masked patches (arXiv:2111.06377, section 3)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core.nn import patchify

__all__ = ["PatchStats", "mae_loss", "patch_stats"]

EPS = 1e-6


class PatchStats(NamedTuple):
    """What normalises a patch: ``mean`` and ``std`` of its pixels over all channels, (B, patches, 1)."""

    mean: Tensor
    std: Tensor


def patch_stats(patches: Tensor) -> PatchStats:
    """Return mean and deviation of patches (B, N, values): unbiased variance, as ``models_mae.py`` has it."""
    return PatchStats(patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + EPS).sqrt())


def mae_loss(predicted: Tensor, images: Tensor, masked: Tensor, patch: int, normalise: bool = True) -> Tensor:
    """Return the mean squared error over the values of all masked patches, a scalar in float32 at least.

    Args:
        predicted: (B, M, patch * patch * C), the values of a patch row by row with channels last.
        images: (B, C, H, W).
        masked: (B, M) int64, the numbers of the masked patches in the order of ``predicted``.
        patch: side of a patch in pixels.
        normalise: whether the target is each patch minus its mean, divided by its deviation.
    """
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    target = patchify(wide, (patch, patch), "channels last")
    target = target.gather(1, masked[..., None].expand(-1, -1, target.shape[-1]))  # (B, N, P) -> (B, M, P)
    if normalise:
        mean, std = patch_stats(target)
        target = (target - mean) / std
    return F.mse_loss(predicted.to(target.dtype), target)
