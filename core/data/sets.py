"""What a set of images or recordings is, wherever it lies: between files (``idx.py``, ``images.py``) and loaders."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from PIL import Image

from core.data.order import keys
from core.errors import InputError

__all__ = ["ImageFormat", "ImageSet", "Images", "ItemSet", "Part", "Split", "few", "hold_out"]

Split = Literal["train", "val", "test", "predict"]
Images = np.ndarray | list[Image.Image]  # (B, H, W) or (B, H, W, 3) uint8, or PIL images of any size


T = TypeVar("T", bound="Images | list[Any]", covariant=True)


class ItemSet(ABC, Generic[T]):
    """Things that can be read by number; reading some gives a `T`, with an entry for each.

    Attributes:
        noun: What they are called in messages.
        classes: Names of the classes; empty if nothing is known of them.
        labels: (N,) int64 class of each item, or None for items without labels.
        captions: What is said about each image, one or more texts, or in each recording, an
            :class:`core.data.utterance.Utterance`; None where nothing is known of it.
        in_memory: Whether reading is only copying, so that processes that read ahead would not pay.
    """

    noun: str = "images"
    classes: list[str]
    labels: np.ndarray | None
    captions: Sequence[Any] | None = None
    in_memory: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> T:
        """The items with these numbers.

        Raises:
            InputError: If one can't be read.
        """

    def take(self, indices: Sequence[int]) -> tuple[T, list[int]]:
        """The items with these numbers, and the numbers of those that were read.

        They are the same, but for sets that put another item in the place of one that can't be read.

        Raises:
            InputError: If one can't be read.
        """
        return self.read(indices), list(indices)

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call an item in a report: its file or its number."""


ImageSet = ItemSet[Images]


class ImageFormat(ABC):
    """How a data set lies on disk."""

    @abstractmethod
    def open(self, root: Path, split: Split) -> ImageSet | None:
        """One split of the data set in ``root``; None if the format has no such split (then it may be held out of
        another).

        Raises:
            InputError: If ``root`` or a file in it is missing or is not what it should be.
        """


class Part(ItemSet[T]):
    """Some items of another set."""

    def __init__(self, whole: ItemSet[T], indices: np.ndarray) -> None:
        self.whole = whole
        self.indices = indices
        self.noun = whole.noun
        self.classes = whole.classes
        self.labels = None if whole.labels is None else whole.labels[indices]
        self.captions = None if whole.captions is None else [whole.captions[index] for index in indices]
        self.in_memory = whole.in_memory

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Sequence[int]) -> T:
        return self.whole.read([int(self.indices[index]) for index in indices])

    def name(self, index: int) -> str:
        return self.whole.name(int(self.indices[index]))


def hold_out(whole: ItemSet[T], share: float) -> tuple[Part[T], Part[T]]:
    """Two parts of a set: what remains and the ``share`` that is held out, chosen at random but always the same."""
    order = np.argsort(keys(0, 0, np.arange(len(whole))), kind="stable")
    count = max(1, round(share * len(whole)))
    return Part(whole, np.sort(order[count:])), Part(whole, np.sort(order[:count]))


def few(whole: ItemSet[T], count: int) -> Part[T]:
    """``count`` items of a set, as many of each class as there can be (without labels, of all), always the same.

    A smaller selection is a part of a larger one.

    Raises:
        InputError: If the set has fewer items.
    """
    if not 0 < count <= len(whole):
        raise InputError(f"few {count}: there are {len(whole)} training {whole.noun}, expected a number from 1 to that")
    order = np.argsort(keys(1, 0, np.arange(len(whole))), kind="stable")
    if whole.labels is not None:
        labels = whole.labels[order]
        turn = np.empty(len(order), np.int64)  # the how-many-eth of its class an item is
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)
            turn[mine] = np.arange(len(mine))
        order = order[np.argsort(turn, kind="stable")]
    return Part(whole, np.sort(order[:count]))
