"""Multi-crop augmentation of DINO (arXiv:2104.14294, section 3.1 and appendix) and DINOv2 (arXiv:2304.07193).

A batch of B images becomes two groups: global crops (2 * B, C, G, G) and local ones (locals * B, C, L, L), ordered by
crop: the first crop of every image, then the second of every image, ... Each crop of an image follows from the image's
key and the crop's number alone, whatever the batch.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from core.data.examples import Transform
from core.data.order import Keys, splitmix64, uniforms
from core.data.sets import Images
from core.errors import InputError
from vision.randomness import own_randomness, seed_all

__all__ = ["MultiCrop", "SmallMultiCrop", "crop_boxes", "crop_resized"]

RGB = tuple[float, float, float]

_BLURRED = (1.0, 0.1, 0.5)  # probability of blur for the first global, the second global and the local crops
_SOLARIZED = (0.0, 0.2, 0.0)
_RATIO = (3 / 4, 4 / 3)  # of a crop's width to its height


class MultiCrop(Transform):
    """Crops of pictures: random resized crop, flip, colours, greyscale, blur and solarization (second global crop).

    DINO's settings are the defaults. DINOv2 has scales from 0.32 on: ``global_scale=(0.32, 1)``,
    ``local_scale=(0.05, 0.32)``, and ``local_size=98`` for patches of 14.

    Args:
        size: Height and width of the global crops.
        local_size: Height and width of the local crops.
        locals: Local crops of each image.
        global_scale, local_scale: Range of a crop's area, as a share of the picture.
        jitter: Strength of the change of brightness and contrast; saturation changes half as much, hue a quarter.
        mean, std: Of the channels, for values in [0, 1].
    """

    def __init__(
        self,
        size: int = 224,
        local_size: int = 96,
        locals: int = 8,
        global_scale: tuple[float, float] = (0.4, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.4),
        jitter: float = 0.4,
        mean: RGB = IMAGENET_DEFAULT_MEAN,
        std: RGB = IMAGENET_DEFAULT_STD,
    ) -> None:
        _check(locals, global_scale, local_scale)
        self.views = [
            _view(size if kind < 2 else local_size, global_scale if kind < 2 else local_scale, jitter, kind, mean, std)
            for kind in range(3)
        ]
        self.locals = locals

    def __call__(self, images: Images, keys: Keys) -> list[Tensor]:
        """Map B images to [(2 * B, 3, size, size), (locals * B, 3, local_size, local_size)], the latter if any."""
        crops: list[Tensor] = []
        pictures = [
            (Image.fromarray(image) if isinstance(image, np.ndarray) else image).convert("RGB") for image in images
        ]
        with own_randomness():
            for number in range(2 + self.locals):
                view = self.views[min(number, 2)]
                for picture, key in zip(pictures, _of_crop(keys, number), strict=True):
                    seed_all(int(key))
                    crops.append(view(picture))
        split = 2 * len(pictures)
        return [torch.stack(group) for group in (crops[:split], crops[split:]) if group]


class SmallMultiCrop(Transform):
    """Crops of small images of one size in memory (MNIST and its like), all images of a batch at once.

    Each crop is a random resized crop, perhaps mirrored, with another brightness and contrast, and perhaps blurred.

    Args:
        mean, std: Of each channel, for values in [0, 1].
        size: Height and width of the global crops.
        local_size: Height and width of the local crops.
        locals: Local crops of each image.
        global_scale, local_scale: Range of a crop's area, as a share of the image.
        flip: Probability of a horizontal flip.
        jitter: Strength of the change of brightness and contrast: factors from 1 - jitter to 1 + jitter.
        blur: Probability of a blur with a kernel of 3 x 3 and sigma from 0.1 to 1.
    """

    def __init__(
        self,
        mean: list[float],
        std: list[float],
        size: int = 28,
        local_size: int = 14,
        locals: int = 4,
        global_scale: tuple[float, float] = (0.4, 1.0),
        local_scale: tuple[float, float] = (0.1, 0.4),
        flip: float = 0.5,
        jitter: float = 0.4,
        blur: float = 0.0,
    ) -> None:
        if len(mean) != len(std) or not mean:
            raise InputError(f"mean {mean} and std {std} must have one number for each channel")
        _check(locals, global_scale, local_scale)
        self.mean = torch.tensor(mean)[:, None, None]
        self.std = torch.tensor(std)[:, None, None]
        self.groups = [(range(2), size, global_scale), (range(2, 2 + locals), local_size, local_scale)]
        self.flip = flip
        self.jitter = jitter
        self.blur = blur

    def __call__(self, images: Images, keys: Keys) -> list[Tensor]:
        """Map (B, H, W) or (B, H, W, C) uint8 to [(2 * B, C, size, size), (locals * B, C, local_size, local_size)]."""
        if not isinstance(images, np.ndarray):
            raise InputError(
                "SmallMultiCrop takes arrays of one size (IDX); use vision.multicrop.MultiCrop for pictures"
            )
        x = torch.from_numpy(images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2).copy())
        if x.shape[1] != len(self.mean):
            raise InputError(f"images have {x.shape[1]} channel(s), mean and std have {len(self.mean)}")
        x = x.float().div_(255)  # (B, C, H, W)
        return [self._crops(x, keys, *group) for group in self.groups if len(group[0])]

    def _crops(self, x: Tensor, keys: Keys, numbers: range, size: int, scale: tuple[float, float]) -> Tensor:
        crops = []
        for number in numbers:
            draws = uniforms(_of_crop(keys, number), 9)
            boxes = crop_boxes(draws[:, :4], x.shape[-2], x.shape[-1], scale)
            y = crop_resized(x, boxes, torch.from_numpy(draws[:, 4] < self.flip), size)
            factors = torch.from_numpy(1 + self.jitter * (2 * draws[:, 5:7] - 1)).float()[:, :, None, None, None]
            y.mul_(factors[:, 0]).clamp_(0, 1)
            middle = y.mean((1, 2, 3), keepdim=True)
            y = torch.lerp(middle, y, factors[:, 1].expand_as(y)).clamp_(0, 1)
            if self.blur:
                sigma = torch.from_numpy(np.where(draws[:, 7] < self.blur, 0.1 + 0.9 * draws[:, 8], 0.0)).float()
                y = _blurred(y, sigma)
            crops.append(y)
        return torch.cat(crops).sub_(self.mean).div_(self.std)  # by crop: (crops * B, C, size, size)


def crop_boxes(draws: np.ndarray, height: int, width: int, scale: tuple[float, float]) -> Tensor:
    """Boxes of random resized crops, of which one that would not fit is made as wide or high as the image.

    Args:
        draws: (B, 4) numbers in [0, 1): area, ratio of the sides, place down, place right.
        height, width: Of the images.
        scale: Range of the area, as a share of the image.

    Returns:
        (B, 4) top, left, height and width, float32 pixels.
    """
    area = (scale[0] + (scale[1] - scale[0]) * draws[:, 0]) * height * width
    low, high = np.log(_RATIO)
    ratio = np.exp(low + (high - low) * draws[:, 1])
    down, right = np.minimum(np.sqrt(area / ratio), height), np.minimum(np.sqrt(area * ratio), width)
    boxes = np.stack([draws[:, 2] * (height - down), draws[:, 3] * (width - right), down, right], 1)
    return torch.from_numpy(boxes).float()


def crop_resized(x: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Cut a box out of each image and resize it bilinearly, without smoothing; what lies beyond the image is its edge.

    Args:
        x: (B, C, H, W) images.
        boxes: (B, 4) top, left, height and width, in pixels.
        flips: (B,) bool: mirror the crop.
        size: Height and width of the result.

    Returns:
        (B, C, size, size).
    """
    span = x.new_tensor([x.shape[-2], x.shape[-1]])
    scale = boxes[:, 2:] / span  # (B, 2)
    middle = (2 * boxes[:, :2] + boxes[:, 2:]) / span - 1
    theta = x.new_zeros(len(x), 2, 3)  # rows: from the crop's x and y to the image's, both in [-1, 1]
    theta[:, 0, 0] = torch.where(flips, -scale[:, 1], scale[:, 1])
    theta[:, 1, 1] = scale[:, 0]
    theta[:, 0, 2], theta[:, 1, 2] = middle[:, 1], middle[:, 0]
    grid = F.affine_grid(theta, [len(x), x.shape[1], size, size], align_corners=False)
    return F.grid_sample(x, grid, "bilinear", "border", align_corners=False)


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each of (B, C, H, W) by a Gaussian of 3 x 3 taps with its own sigma (B,); 0 for none."""
    side = torch.where(sigma > 0, torch.exp(-0.5 / sigma.clamp(min=0.05) ** 2), 0.0)[:, None, None, None]
    total = 1 + 2 * side
    padded = F.pad(x, (1, 1, 1, 1), "reflect")
    rows = (padded[:, :, 1:-1] + side * (padded[:, :, :-2] + padded[:, :, 2:])) / total
    return (rows[..., 1:-1] + side * (rows[..., :-2] + rows[..., 2:])) / total


class _Blur(nn.Module):
    """PIL's Gaussian blur with a radius from 0.1 to 2."""

    def forward(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(0.1, 2.0))))


def _view(size: int, scale: tuple[float, float], jitter: float, kind: int, mean: RGB, std: RGB) -> nn.Module:
    """What makes a crop: ``kind`` 0 is the first global one, 1 the second, 2 a local one."""
    from torchvision.transforms import v2

    colours = v2.ColorJitter(jitter, jitter, jitter / 2, jitter / 4)
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale, _RATIO, v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([colours], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([_Blur()], _BLURRED[kind]),
            v2.RandomSolarize(128, _SOLARIZED[kind]),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )


def _of_crop(keys: Keys, number: int) -> Keys:
    """The keys of one crop of each image."""
    return splitmix64(keys ^ splitmix64(np.array([number], np.uint64)))


def _check(locals: int, *scales: tuple[float, float]) -> None:
    if locals < 0 or any(not 0 < low <= high <= 1 for low, high in scales):
        raise InputError(f"locals {locals} must be >= 0 and scales {scales} ranges within (0, 1]")
