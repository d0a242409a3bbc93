"""Images that can't be read are passed over, named and counted, up to a limit."""

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from core.data.sets import Images, ImageSet
from core.errors import InputError

__all__ = ["Skipping"]


class Skipping(ImageSet):
    """A set in which the next readable image stands in for one that can't be read.

    The next is the one with the next number (after the last comes the first), so that batches keep their size and a
    resumed run sees the same. Each broken image is reported once, by a warning and as a line of a file.

    The processes that read ahead for one trainer count together, in shared memory. Each rank counts what it met
    itself, so that the limit holds for each rank.

    Args:
        whole: The set.
        limit: How many images may be broken; with one more, reading fails.
        report: File to which a line for each broken image is added; None for none.
    """

    def __init__(self, whole: ImageSet, limit: int = 100, report: Path | None = None) -> None:
        self.whole = whole
        self.limit = limit
        self.report = report
        self.classes, self.labels, self.in_memory = whole.classes, whole.labels, whole.in_memory
        self.captions = whole.captions
        self._broken = torch.zeros(len(whole), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def broken(self) -> list[int]:
        """The numbers of the images that were found broken so far."""
        return self._broken.nonzero().flatten().tolist()

    def read(self, indices: Sequence[int]) -> Images:
        return self.take(indices)[0]

    def take(self, indices: Sequence[int]) -> tuple[Images, list[int]]:
        """The images, and the numbers of those that were read.

        Raises:
            InputError: If more images than the limit are broken, or all are.
        """
        if not self._broken[list(indices)].any():
            with contextlib.suppress(InputError):
                return self.whole.read(indices), list(indices)
        images: list[Image.Image] = []
        taken = []
        for index in indices:
            image, used = self._first_readable(index)
            images.append(image)
            taken.append(used)
        return images, taken

    def name(self, index: int) -> str:
        return self.whole.name(index)

    def _first_readable(self, index: int) -> tuple[Image.Image, int]:
        for step in range(len(self)):
            number = (index + step) % len(self)
            if self._broken[number]:
                continue
            try:
                image = self.whole.read([number])[0]
                return image if isinstance(image, Image.Image) else Image.fromarray(image), number
            except InputError as error:
                self._count(number, error)
        raise InputError(f"none of the {len(self)} images can be read, the last: {self.name(index)}")

    def _count(self, number: int, error: InputError) -> None:
        self._broken[number] = 1
        count = int(np.count_nonzero(self._broken.numpy()))
        if count > self.limit:
            raise InputError(
                f"{count} images can't be read, the limit is {self.limit} (skip_limit); the last: {error}"
            ) from error
        warnings.warn(f"passed over, {count} so far of at most {self.limit}: {error}", stacklevel=2)
        if self.report is not None and self.report.parent.is_dir():
            with self.report.open("a", encoding="utf-8") as file:
                file.write(f"{self.name(number)}\t{error}\n")
