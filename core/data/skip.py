"""Images and recordings that can't be read are passed over, named and counted, up to a limit."""

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from core.data.sets import ItemSet
from core.errors import InputError

__all__ = ["Skipping"]


class Skipping(ItemSet[Any]):
    """A set in which the next readable item stands in for one that can't be read.

    The next is the one with the next number (after the last comes the first), so that batches keep their size and a
    resumed run sees the same. Each broken item is reported once, by a warning and as a line of a file.

    The processes that read ahead for one trainer count together, in shared memory. Each rank counts what it met
    itself, so that the limit holds for each rank.

    Args:
        whole: The set.
        limit: How many items may be broken; with one more, reading fails.
        report: File to which a line for each broken item is added; None for none.
    """

    def __init__(self, whole: ItemSet[Any], limit: int = 100, report: Path | None = None) -> None:
        self.whole = whole
        self.limit = limit
        self.report = report
        self.noun = whole.noun
        self.classes, self.labels, self.in_memory = whole.classes, whole.labels, whole.in_memory
        self.captions = whole.captions
        self._broken = torch.zeros(len(whole), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def broken(self) -> list[int]:
        """The numbers of the items that were found broken so far."""
        return self._broken.nonzero().flatten().tolist()

    def read(self, indices: Sequence[int]) -> Any:
        return self.take(indices)[0]

    def take(self, indices: Sequence[int]) -> tuple[Any, list[int]]:
        """The items, and the numbers of those that were read.

        Raises:
            InputError: If more items than the limit are broken, or all are.
        """
        if not self._broken[list(indices)].any():
            with contextlib.suppress(InputError):
                return self.whole.read(indices), list(indices)
        found = [self._first_readable(index) for index in indices]
        return [item for item, _ in found], [used for _, used in found]

    def name(self, index: int) -> str:
        return self.whole.name(index)

    def _first_readable(self, index: int) -> tuple[Any, int]:
        last = self.name(index)
        for step in range(len(self)):
            number = (index + step) % len(self)
            if self._broken[number]:
                continue
            try:
                item = self.whole.read([number])[0]
                return Image.fromarray(item) if isinstance(item, np.ndarray) else item, number
            except InputError as error:
                self._count(number, error)
                last = str(error)
        raise InputError(f"none of the {len(self)} {self.noun} can be read, the last: {last}")

    def _count(self, number: int, error: InputError) -> None:
        self._broken[number] = 1
        count = int(np.count_nonzero(self._broken.numpy()))
        if count > self.limit:
            raise InputError(
                f"{count} {self.noun} can't be read, the limit is {self.limit} (skip_limit); the last: {error}"
            ) from error
        warnings.warn(f"passed over, {count} so far of at most {self.limit}: {error}", stacklevel=2)
        if self.report is not None and self.report.parent.is_dir():
            with self.report.open("a", encoding="utf-8") as file:
                file.write(f"{self.name(number)}\t{error}\n")
