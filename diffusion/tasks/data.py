"""Latents that were computed in advance, as data for training."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.order import Key, keys, uniforms
from core.data.sets import ItemSet, Split
from core.errors import InputError
from core.train.data import ItemData
from diffusion.latents import Latents
from diffusion.tasks.cache import LatentSet, read_cache

__all__ = ["LatentData", "LatentExamples"]


class LatentExamples:
    """Batches of moments.

    A batch is a dictionary: ``moments`` (B, M, h, w) float32, ``index`` (B,) int64 numbers in the set, and ``label``
    (B,) int64 where the set has labels.

    Args:
        items: The set, whose items are (views, M, h, w).
        flip: Probability of the mirrored view; which pictures are mirrored in an epoch is as in
            ``vision.augment.Small``.
        seed: Seed of the keys.
    """

    def __init__(self, items: ItemSet[Any], flip: float, seed: int) -> None:
        self.items = items
        self.flip = flip
        self.seed = seed

    def __getitems__(self, wanted: list[Key]) -> dict[str, Tensor]:
        indices = np.array([index for _, index in wanted], np.int64)
        views, taken = self.items.take(indices.tolist())
        draws = uniforms(keys(self.seed, wanted[0][0], indices), 3)[:, 2]
        mirrored = torch.from_numpy(draws < self.flip).long()
        moments = torch.stack([view[which] for view, which in zip(views, mirrored, strict=True)])
        batch = {"moments": moments.float(), "index": torch.tensor(taken)}
        if self.items.labels is not None:
            batch["label"] = torch.from_numpy(self.items.labels[taken])
        return batch


class LatentData(ItemData):
    """What ``sensorium precompute`` wrote.

    Args:
        root: Its folder.
        flip: Probability with which a picture is mirrored in training; needs latents of mirrored pictures.
        items: See :class:`core.train.data.ItemData`; nothing is held out, the folder has its own splits.
    """

    def __init__(self, root: str, flip: float = 0.0, **items: Any) -> None:
        super().__init__(root, hold_out=0.0, **items)
        self.flip = flip

    def check(self, latents: Latents) -> None:
        """See that the latents are those of a task.

        Raises:
            InputError: If they were computed by another encoder.
        """
        said, asked = read_cache(self.root)["latents"], latents.identity()
        if said != asked:
            differ = ", ".join(name for name in sorted({*said, *asked}) if said.get(name) != asked.get(name))
            raise InputError(f"{self.root}: latents of another encoder than the task's: {differ} differ")

    def _read(self, split: Split) -> LatentSet | None:
        said = read_cache(self.root)
        if split not in said["splits"]:
            return None
        found = LatentSet(self.root, split, said)
        if self.flip and found.views < 2:
            raise InputError(f"{self.root}: flip {self.flip}, but it has no mirrored pictures: precompute --mirrored")
        return found

    def _examples(self, items: ItemSet[Any], training: bool) -> LatentExamples:
        return LatentExamples(items, self.flip if training else 0.0, self.seed)
