"""From images on disk to a batch for a model: read, transform, stack."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.order import Key, Keys, keys
from core.data.sets import Images, ImageSet

__all__ = ["ImageExamples", "Transform"]


class Transform(ABC):
    """From images to a tensor; whatever is random in it follows from the keys."""

    @abstractmethod
    def __call__(self, images: Images, keys: Keys) -> Tensor | list[Tensor]:
        """Map B images and their (B,) uint64 keys to (B, C, H, W) float32.

        Or to groups of crops, each (crops * B, C, H, W): all first crops, then all second ones, ...
        """


class ImageExamples:
    """Batches of transformed images.

    A batch is a dictionary: ``image`` (B, C, H, W) float32, or ``crops``, a list of groups (crops * B, C, H, W), as the
    transform makes the one or the other; ``index`` (B,) int64 numbers in the set; and ``label`` (B,) int64 where the
    set has labels. Index and label are those of the image that was read, should it stand in for a broken one.

    Args:
        images: The set.
        transform: Makes the tensor.
        seed: Seed of the keys.
    """

    def __init__(self, images: ImageSet, transform: Transform, seed: int = 0) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __getitems__(self, wanted: list[Key]) -> dict[str, Any]:
        indices = np.array([index for _, index in wanted], np.int64)
        images, taken = self.images.take(indices.tolist())
        return self.made(images, taken, keys(self.seed, wanted[0][0], indices))

    def made(self, images: Images, taken: list[int], randomness: Keys) -> dict[str, Any]:
        """The batch of images that were read, with these numbers and keys."""
        made = self.transform(images, randomness)
        batch: dict[str, Any] = {"image" if isinstance(made, Tensor) else "crops": made, "index": torch.tensor(taken)}
        if self.images.labels is not None:
            batch["label"] = torch.from_numpy(self.images.labels[taken])
        return batch
