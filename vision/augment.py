"""From images to tensors: preprocessing, and augmentation by timm whose randomness follows from each sample's key.

A transform maps images (``core.data.sets.Images``) and one 64-bit key each to (B, C, H, W) float32. With the same key
an image always looks the same, whatever the worker, the rank or the batch. (Mixing needs two images: its pairing is a
property of the batch.)
"""

import numpy as np
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.mixup import Mixup
from timm.data.transforms_factory import create_transform
from torch import Tensor

from core.data.examples import Transform
from core.data.order import Keys, keys, uniforms
from core.data.sets import Images
from core.errors import InputError
from vision.randomness import own_randomness, seed_all

__all__ = ["Augment", "Mix", "Preprocess", "Small"]

RGB = tuple[float, float, float]


class Preprocess(Transform):
    """Pictures for evaluation: resized, centre-cropped, normalised; nothing random (timm's evaluation transform).

    Args:
        size: Height and width of the result.
        crop: Share of the shorter side that the crop keeps.
        interpolation: "bicubic", "bilinear", ...
        mean, std: Of the channels, for values in [0, 1].
    """

    def __init__(
        self,
        size: int = 224,
        crop: float = 0.875,
        interpolation: str = "bicubic",
        mean: RGB = IMAGENET_DEFAULT_MEAN,
        std: RGB = IMAGENET_DEFAULT_STD,
    ) -> None:
        self.transform = create_transform(size, interpolation=interpolation, mean=mean, std=std, crop_pct=crop)

    def __call__(self, images: Images, keys: Keys) -> Tensor:
        """Map B images to (B, 3, size, size)."""
        return torch.stack([self.transform(_pil(image)) for image in images])


class Augment(Transform):
    """Pictures for training: a random crop, flip, colours, RandAugment and random erasing (timm's training transform).

    Args:
        size: Height and width of the result.
        scale: Range of the crop's area, as a share of the picture.
        flip: Probability of a horizontal flip.
        jitter: Strength of the change of colours; without effect beside RandAugment.
        policy: timm's name of a policy, such as "rand-m9-mstd0.5-inc1" (RandAugment, arXiv:1909.13719); "" for none.
        erase: Probability of erasing a rectangle (arXiv:1708.04896).
        mean, std: Of the channels, for values in [0, 1].
    """

    def __init__(
        self,
        size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        flip: float = 0.5,
        jitter: float = 0.4,
        policy: str = "rand-m9-mstd0.5-inc1",
        erase: float = 0.25,
        mean: RGB = IMAGENET_DEFAULT_MEAN,
        std: RGB = IMAGENET_DEFAULT_STD,
    ) -> None:
        self.transform = create_transform(
            size,
            is_training=True,
            scale=scale,
            hflip=flip,
            color_jitter=jitter,
            auto_augment=policy or None,
            re_prob=erase,
            re_mode="pixel",
            mean=mean,
            std=std,
        )

    def __call__(self, images: Images, keys: Keys) -> Tensor:
        """Map B images to (B, 3, size, size)."""
        results = []
        with own_randomness():
            for image, key in zip(images, keys, strict=True):
                seed_all(int(key))
                results.append(self.transform(_pil(image)))
        return torch.stack(results)


class Small(Transform):
    """Small images of one size in memory (MNIST and its like): normalised, and for training shifted and flipped, all
    at once.

    Args:
        mean, std: Of each channel, for values in [0, 1].
        shift: The most pixels by which an image moves, up, down, left or right; what is uncovered is black.
        flip: Probability of a horizontal flip.
    """

    def __init__(self, mean: list[float], std: list[float], shift: int = 0, flip: float = 0.0) -> None:
        if len(mean) != len(std) or not mean:
            raise InputError(f"mean {mean} and std {std} must have one number for each channel")
        self.mean = np.array(mean, np.float32)[:, None, None]
        self.std = np.array(std, np.float32)[:, None, None]
        self.shift = shift
        self.flip = flip

    def __call__(self, images: Images, keys: Keys) -> Tensor:
        """Map (B, H, W) or (B, H, W, C) uint8 to (B, C, H, W)."""
        if not isinstance(images, np.ndarray):
            raise InputError(
                "vision.augment.Small takes arrays of one size (IDX); use Preprocess and Augment for pictures"
            )
        x = images[..., None] if images.ndim == 3 else images  # (B, H, W, C)
        if x.shape[-1] != len(self.mean):
            raise InputError(f"images have {x.shape[-1]} channel(s), mean and std have {len(self.mean)}")
        x = self._moved(x, uniforms(keys, 3)) if self.shift or self.flip else x
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32)  # (B, H, W, C) -> (B, C, H, W)
        return torch.from_numpy((x / np.float32(255) - self.mean) / self.std)

    def _moved(self, x: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Shift and flip (B, H, W, C) by (B, 3) numbers in [0, 1)."""
        batch, height, width, _ = x.shape
        down, right = np.floor(draws[:, :2] * (2 * self.shift + 1)).astype(np.int64).T
        padded = np.pad(x, ((0, 0), (self.shift, self.shift), (self.shift, self.shift), (0, 0)))
        rows = down[:, None] + np.arange(height)  # (B, H)
        columns = right[:, None] + np.arange(width)  # (B, W)
        columns = np.where(draws[:, 2:] < self.flip, columns[:, ::-1], columns)
        return padded[np.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


class Mix:
    """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899) by timm, one ratio for each batch.

    The ratio, and the box of CutMix, follow from (seed, epoch, number of the batch), alike on all ranks. Neighbours
    in the global batch are mixed with one another (0 with 1, 2 with 3, ...). Since each rank takes a contiguous share
    of the global batch, the pairs are the same on any number of processes, as long as a share is even.

    Args:
        mixup: Parameter of Mixup's beta distribution; 0 turns it off.
        cutmix: Parameter of CutMix's beta distribution; 0 turns it off.
        probability: Share of batches that are mixed at all.
        switch: Share of those that take CutMix, where both are on.
    """

    def __init__(self, mixup: float = 0.8, cutmix: float = 1.0, probability: float = 1.0, switch: float = 0.5) -> None:
        if mixup <= 0 and cutmix <= 0:
            raise InputError("mixup and cutmix are both off; leave out the mixing instead")
        self.settings = {"mixup_alpha": mixup, "cutmix_alpha": cutmix, "prob": probability, "switch_prob": switch}

    def __call__(
        self, images: Tensor, labels: Tensor, classes: int, when: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: (B, C, H, W), B even.
            labels: (B,) int64.
            classes: Number of classes.
            when: (seed, epoch, number of the batch in the epoch).

        Returns:
            (B, C, H, W) mixed images and (B, classes) float32 probabilities.

        Raises:
            InputError: If B is odd.
        """
        count = len(images)
        if count % 2:
            raise InputError(
                f"mixing pairs images, but a process has {count} of each batch: make the batch size even for each"
            )
        mixer = Mixup(**self.settings, label_smoothing=0.0, num_classes=classes)
        # timm mixes the i-th with the i-th from the end: order the batch so that those are neighbours
        order = torch.cat([torch.arange(0, count, 2), torch.arange(count - 1, 0, -2)]).to(images.device)
        with own_randomness():
            seed_all(int(keys(when[0], when[1], np.array([when[2]]))[0]))
            mixed, targets = mixer(images[order], labels[order])
        back = torch.empty_like(order)
        back[order] = torch.arange(count, device=order.device)
        return mixed[back], targets[back]


def _pil(image: np.ndarray | Image.Image) -> Image.Image:
    return (Image.fromarray(image) if isinstance(image, np.ndarray) else image).convert("RGB")
