"""From a picture to what a model takes, as its folder says: timm's, Hugging Face's and our own words. PIL and NumPy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.errors import InputError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preparation", "preparation"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preparation:
    """Resize, crop the centre, normalise.

    Attributes:
        size: (height, width) of the result, in pixels.
        shorter: length of the shorter side before the crop, in pixels; None = resized to ``size`` as it is.
        method: of the resizing, by PIL's name.
        mean, std: of the channels, for values in [0, 1]; one of each: grey images.
    """

    size: tuple[int, int] = (224, 224)
    shorter: int | None = 256
    method: str = "BICUBIC"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean) or min(self.std) <= 0:
            raise InputError(f"mean {self.mean} and std {self.std} must be of one or three channels, std positive")
        if self.method not in Image.Resampling.__members__:
            known = ", ".join(Image.Resampling.__members__)
            raise InputError(f"no way of resizing is called {self.method!r}: choose one of {known}")
        if self.shorter is not None and self.shorter < max(self.size):
            raise InputError(f"a crop of {self.size} pixels needs a shorter side of at least that, not {self.shorter}")

    def picture(self, image: Image.Image) -> Image.Image:
        """Resize and crop an image; colours become grey where the model takes grey."""
        height, width = self.size
        image = image.convert("L" if len(self.mean) == 1 else "RGB")
        method = Image.Resampling[self.method]
        if self.shorter is None:
            return image if image.size == (width, height) else image.resize((width, height), method)
        short = min(image.size)
        # the longer side is cut off to whole pixels, and the crop's corner rounded, as torchvision does
        long = int(self.shorter * max(image.size) / short)
        wide = image.width > image.height
        size = (long, self.shorter) if wide else (self.shorter, long)
        image = image if image.size == size else image.resize(size, method)
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def __call__(self, image: Image.Image) -> Tensor:
        """Map an image of any size to (C, height, width) float32."""
        x: np.ndarray = np.asarray(self.picture(image), np.float32)
        x = x[..., None] if x.ndim == 2 else x
        x = (x / np.float32(255) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))  # (H, W, C) -> (C, H, W)


def preparation(image: tuple[int, int], channels: int, said: Mapping[str, Any]) -> Preparation:
    """Return how images are prepared for a model.

    Args:
        image: (height, width) that it takes.
        channels: that it takes.
        said: by timm (``pretrained_cfg``), Hugging Face (``preprocessor_config.json``), a recipe of ours (a transform
            with ``class_path``) or a bundle of ours (the fields of a :class:`Preparation`); where nothing is said,
            timm's way with ImageNet's mean and deviation.

    Raises:
        InputError: if what is said can't be followed.
    """
    try:
        if "class_path" in said:
            return _ours(image, said)
        if "shorter" in said:
            shape, mean, std = (tuple(said[name]) for name in ("size", "mean", "std"))
            return Preparation((shape[0], shape[1]), said["shorter"], said["method"], mean, std)
        if "image_mean" in said or "image_processor_type" in said or "do_resize" in said:
            return _hugging_face(image, said)
        return _timm(image, channels, said)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"the model's preprocessing can't be followed ({error!r}): {dict(said)}") from error


def _timm(image: tuple[int, int], channels: int, said: Mapping[str, Any]) -> Preparation:
    grey = channels == 1
    mean, std = said.get("mean", (0.5,) if grey else IMAGENET_MEAN), said.get("std", (0.5,) if grey else IMAGENET_STD)
    crop, mode = float(said.get("crop_pct") or 0.875), str(said.get("crop_mode") or "center")
    if mode not in ("center", "squash"):
        raise InputError(f"the model's preprocessing crops by {mode!r}: center and squash are known")
    method = str(said.get("interpolation") or "bicubic").upper()
    if mode == "squash" and crop != 1:
        raise InputError(f"the model's preprocessing squashes and crops to {crop}: only squashing to all is known")
    shorter = None if mode == "squash" or image[0] != image[1] else int(image[0] / crop)
    return Preparation(image, shorter, method, tuple(map(float, mean)), tuple(map(float, std)))


def _hugging_face(image: tuple[int, int], said: Mapping[str, Any]) -> Preparation:
    size = said.get("size") or {}
    method = Image.Resampling(int(said.get("resample", Image.Resampling.BILINEAR))).name
    scaled = said.get("do_normalize", True)
    mean = tuple(map(float, said.get("image_mean") or IMAGENET_MEAN)) if scaled else (0.0, 0.0, 0.0)
    std = tuple(map(float, said.get("image_std") or IMAGENET_STD)) if scaled else (1.0, 1.0, 1.0)
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if shortest is None or not said.get("do_center_crop", True):
        return Preparation(image, None, method, mean, std)
    crop = said.get("crop_size") or image[0]
    edge = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (int(crop), int(crop))
    return Preparation((int(edge[0]), int(edge[1])), int(shortest), method, mean, std)


def _ours(image: tuple[int, int], said: Mapping[str, Any]) -> Preparation:
    name, given = str(said["class_path"]), dict(said.get("init_args") or {})
    if name == "vision.augment.Small":
        return Preparation(image, None, "BICUBIC", tuple(given["mean"]), tuple(given["std"]))
    if name == "vision.augment.Preprocess":
        size = int(given.get("size", 224))
        return _timm((size, size), 3, {**given, "crop_pct": given.get("crop", 0.875)})
    raise InputError(f"images prepared by {name} can't be prepared here: vision.augment.Preprocess and Small are known")
