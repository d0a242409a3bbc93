"""Pictures in crops, each as large as the eye takes, and once as a whole: Idefics3 (arXiv:2408.12637) and SmolVLM."""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from core.errors import InputError
from vision.preprocess import Preparation

__all__ = ["Crops", "Picture"]

LARGEST = 4096  # pixels of the longer side, whatever is asked for
HALF = (0.5, 0.5, 0.5)


class Picture(NamedTuple):
    """A picture as an eye takes it.

    Attributes:
        pixels: (n, C, H, W): crops row by row, then the whole; or the whole alone.
        rows, columns: of the crops; 0 where there are none.
    """

    pixels: Tensor
    rows: int = 0
    columns: int = 0


@dataclass(frozen=True)
class Crops:
    """Resizes a picture to whole crops, and cuts it.

    Attributes:
        side: of a crop, and of the whole, in pixels.
        longest: what the longer side is resized to before; None leaves the picture as it is.
        split: whether there are crops; else there is the whole alone.
        method: of the resizing, by PIL's name.
        mean, std: of the channels, for values in [0, 1].

    Raises:
        InputError: if a size is not positive, or mean and deviation are not of three channels.
    """

    side: int = 364
    longest: int | None = 4 * 364
    split: bool = True
    method: str = "LANCZOS"
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF

    def __post_init__(self) -> None:
        if self.side < 1 or (self.longest is not None and self.longest < 1):
            raise InputError(f"crops of {self.side} of {self.longest} pixels: expected positive numbers")

    def __call__(self, image: Image.Image) -> Picture:
        """Return the crops of a picture and the whole."""
        prepare = Preparation((self.side, self.side), None, self.method, self.mean, self.std)
        method = Image.Resampling[self.method]
        image = image.convert("RGB")
        if self.longest is not None:
            image = image.resize(_scaled(image.width, image.height, self.longest), method)
        if not self.split:
            return Picture(prepare(image)[None])
        image = image.resize(self._whole(image.width, image.height), method)
        columns, rows = image.width // self.side, image.height // self.side
        if rows == columns == 1:
            return Picture(prepare(image)[None])
        corners = [(column * self.side, row * self.side) for row in range(rows) for column in range(columns)]
        crops = [image.crop((left, top, left + self.side, top + self.side)) for left, top in corners]
        return Picture(torch.stack([prepare(crop) for crop in [*crops, image]]), rows, columns)

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Return rows and columns of the crops of a picture of so many pixels, (0, 0) for none."""
        if self.longest is not None:
            width, height = _scaled(width, height, self.longest)
        width, height = self._whole(width, height)
        found = height // self.side, width // self.side
        return found if self.split and found != (1, 1) else (0, 0)

    def _whole(self, width: int, height: int) -> tuple[int, int]:
        """The nearest size above that is a multiple of the crops' side: the longer side first, then the other."""
        ratio = width / height
        if width >= height:
            width = ceil(width / self.side) * self.side
            return width, ceil(int(width / ratio) / self.side) * self.side
        height = ceil(height / self.side) * self.side
        return ceil(int(height * ratio) / self.side) * self.side, height


def _scaled(width: int, height: int, longest: int) -> tuple[int, int]:
    """The size with the longer side as asked for and the other rounded to an even number, as the peers round it."""
    ratio = width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height += height % 2
    else:
        width, height = int(longest * ratio), longest
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    if max(width, height) <= LARGEST:
        return width, height
    ratio = width / height
    if width >= height:
        return LARGEST, max(int(LARGEST / ratio), 1)
    return max(int(LARGEST * ratio), 1), LARGEST
