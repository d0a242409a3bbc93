"""A picture that samples begin from: image to image, and inpainting of a part of it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import InputError

__all__ = ["Original"]


@dataclass(frozen=True)
class Original:
    """The picture, and how much of it is made anew.

    Attributes:
        image: (C, H, W) in [-1, 1].
        mask: (H, W) bool, true where it is painted anew; None for everywhere.
        strength: the share of the steps that is taken, in (0, 1]: at 1 nothing of the picture is left where it is
            painted anew.

    Raises:
        InputError: if the strength is out of range, or the mask of another size than the picture, or empty.
    """

    image: Tensor
    mask: Tensor | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise InputError(f"strength {self.strength}: expected more than 0, and 1 at most")
        if self.mask is None:
            return
        (height, width), (rows, columns) = self.image.shape[-2:], self.mask.shape
        if (rows, columns) != (height, width):
            raise InputError(f"the image is {width} x {height} and its mask {columns} x {rows}: expected the same size")
        if not self.mask.any():
            raise InputError("the mask is black everywhere: expected white where the image is painted anew")

    def places(self, size: tuple[int, int]) -> Tensor:
        """The mask on a coarser grid (h, w), true where any part of it is painted anew."""
        assert self.mask is not None
        return F.adaptive_max_pool2d(self.mask[None].float(), size)[0] > 0

    def kept(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] with the picture where the mask keeps it."""
        return images if self.mask is None else torch.where(self.mask, images, self.image)
