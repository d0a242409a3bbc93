"""What of an image encoder's tokens is taken for the features of an image."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.errors import InputError

__all__ = ["Feature", "feature_width", "image_features"]

Feature = Literal["pooled", "cls", "mean", "cls+mean"]


def image_features(model: nn.Module, images: Tensor, feature: Feature = "pooled") -> Tensor:
    """Return one vector for each of images (B, C, H, W).

    Args:
        model: an encoder with ``features`` and ``pool``, such as :class:`vision.ViT`.
        images: prepared for it.
        feature: ``"pooled"``, what the model's own head would get (B, dim); ``"cls"``, the class token (B, dim);
            ``"mean"``, the mean of the patches (B, dim); ``"cls+mean"``, the latter two side by side (B, 2 * dim).

    Raises:
        InputError: if the model has no class token but one is asked for.
    """
    x: Tensor = model.features(images).x  # type: ignore[operator]
    if feature == "pooled":
        return model.pool(x)  # type: ignore[operator]
    config = model.config
    prefix = int(getattr(config, "prefix", 0))
    mean = x[:, prefix:].mean(1)
    if feature == "mean":
        return mean
    if not getattr(config, "cls_token", False):
        raise InputError(f"feature {feature!r} needs a class token, which this model has not: choose pooled or mean")
    return x[:, 0] if feature == "cls" else torch.cat([x[:, 0], mean], 1)


def feature_width(model: nn.Module, feature: Feature = "pooled") -> int:
    """Return the width of what :func:`image_features` returns."""
    config: Any = model.config
    return int(getattr(config, "width", 0) or config.dim) * (2 if feature == "cls+mean" else 1)
