"""Which patches a student doesn't see: blocks (BEiT, arXiv:2106.08254, algorithm 1), dealt out as in DINOv2."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.data.order import keys
from core.errors import InputError

__all__ = ["BlockMasks"]

TRIES = 10  # for a block, before an image is left with fewer masked patches than it should have


@dataclass(frozen=True)
class BlockMasks:
    """Masks of rectangular blocks for a share of the crops.

    Of all N crops of a batch a share is masked. The ratios of those are spread evenly over their range, one drawn from
    each of as many intervals, and dealt out at random.

    Args:
        ratio: (least, most) share of the patches that is masked in a masked crop.
        share: of the crops that are masked.
        smallest: least number of patches in a block.
        aspect: least ratio of a block's sides; the largest is its inverse.
    """

    ratio: tuple[float, float] = (0.1, 0.5)
    share: float = 0.5
    smallest: int = 4
    aspect: float = 0.3

    def __post_init__(self) -> None:
        least, most = self.ratio
        if not (0 <= least <= most <= 1 and 0 <= self.share <= 1 and self.smallest >= 1 and 0 < self.aspect <= 1):
            raise InputError(f"{self}: ratios and shares must be in [0, 1], a block has at least 1 patch")

    def __call__(
        self, rows: np.ndarray, total: int, grid: tuple[int, int], seed: int, epoch: int, batch: int
    ) -> Tensor:
        """Draw the masks of some crops of a batch; they follow from the numbers alone.

        Args:
            rows: (N,) numbers of the crops among all those of the batch, over all processes.
            total: how many these are.
            grid: (height, width) in patches.
            seed, epoch, batch: of the run.

        Returns:
            (N, height * width) bool, True = masked.
        """
        drawn = keys(int(keys(seed, epoch, np.array([batch]))[0]), 0, np.arange(total))
        place = np.empty(total, np.int64)
        place[np.argsort(drawn, kind="stable")] = np.arange(total)
        chosen = int(total * self.share)
        masks = np.zeros((len(rows), *grid), bool)
        least, most = self.ratio
        for mask, row in zip(masks, rows, strict=True):
            if place[row] < chosen:
                random = np.random.default_rng(int(drawn[row]))
                share = least + (most - least) * (place[row] + random.random()) / chosen
                self._fill(mask, int(mask.size * share), random)
        return torch.from_numpy(masks.reshape(len(rows), -1))

    def _fill(self, mask: np.ndarray, wanted: int, random: np.random.Generator) -> None:
        """Add blocks to a mask (height, width) until so many patches are masked, or no block fits."""
        height, width = mask.shape
        left, tries = wanted, TRIES
        while left >= self.smallest and tries:
            area = random.uniform(self.smallest, left)
            aspect = math.exp(random.uniform(math.log(self.aspect), -math.log(self.aspect)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            tries -= 1
            if not (0 < h <= height and 0 < w <= width):
                continue
            top, start = random.integers(height - h + 1), random.integers(width - w + 1)
            block = mask[top : top + h, start : start + w]
            new = block.size - int(block.sum())
            if 0 < new <= left:
                block[:] = True
                left, tries = left - new, TRIES
