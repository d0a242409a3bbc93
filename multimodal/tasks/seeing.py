"""From the pictures of chats to what an eye takes, with the words that stand for them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.examples import Transform
from core.data.order import Keys
from core.errors import InputError
from multimodal.vlm.crops import Crops, Picture
from multimodal.vlm.words import CropWords, RepeatedWords

__all__ = ["Cropped", "Seeing", "Whole"]


class Seeing(ABC):
    """How pictures are shown.

    Attributes:
        words: what stands for one in the text.
    """

    words: RepeatedWords | CropWords

    @abstractmethod
    def sizes(self, images: Sequence[Any]) -> list[Picture]:
        """What is known of the pictures before their pixels are made, as `words` wants to know it."""

    @abstractmethod
    def __call__(self, images: Sequence[Any], keys: Keys, training: bool) -> Tensor:
        """Map pictures, one key each, to (crops of all, C, H, W)."""


class Whole(Seeing):
    """Each picture as a whole.

    Args:
        preprocess: Makes tensors.
        count: Tokens of a picture.
        token: That stands for one feature.
        augment: Makes tensors in training; by default `preprocess`.
    """

    def __init__(
        self, preprocess: Transform, count: int, token: str = "<image>", augment: Transform | None = None
    ) -> None:
        if count < 1:
            raise InputError(f"count {count}: a picture has at least one token")
        self.words = RepeatedWords(token, count)
        self.preprocess = preprocess
        self.augment = augment or preprocess

    def sizes(self, images: Sequence[Any]) -> list[Picture]:
        return [Picture(torch.empty(1, 0))] * len(images)

    def __call__(self, images: Sequence[Any], keys: Keys, training: bool) -> Tensor:
        arrays = all(isinstance(image, np.ndarray) for image in images)
        made = (self.augment if training else self.preprocess)(np.stack(images) if arrays else list(images), keys)
        if not isinstance(made, Tensor):
            raise InputError("pictures of chats are shown once: the transform makes several crops")
        return made


class Cropped(Seeing):
    """Each picture in crops and as a whole (Idefics3, SmolVLM).

    Args:
        side, longest: See :class:`multimodal.vlm.crops.Crops`.
        count: Tokens of a crop.
    """

    def __init__(self, side: int = 512, longest: int | None = 2048, count: int = 64) -> None:
        self.crops = Crops(side, longest)
        self.words = CropWords(count=count)

    def sizes(self, images: Sequence[Any]) -> list[Picture]:
        grids = [self.crops.grid(*_picture(image).size) for image in images]
        return [Picture(torch.empty(rows * columns + 1, 0), rows, columns) for rows, columns in grids]

    def __call__(self, images: Sequence[Any], keys: Keys, training: bool) -> Tensor:
        return torch.cat([self.crops(_picture(image)).pixels for image in images])


def _picture(image: Any) -> Image.Image:
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image
