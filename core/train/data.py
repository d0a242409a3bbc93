"""Data for training and evaluation: a LightningDataModule over any set whose items can be read by number."""

import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule

from core.data.loader import Examples, Loader, TrainLoader
from core.data.order import BatchOrder, Order
from core.data.sets import ItemSet, Split, few, hold_out
from core.data.skip import Skipping
from core.errors import InputError
from core.train.seeds import run_seed

__all__ = ["ItemData"]

_MOST_WORKERS = 8  # by default; decoding keeps up with one device long before


class ItemData(LightningDataModule):
    """A data set: its splits and their loaders. A subclass says how items are read and become batches.

    Items that can't be read are passed over in training and validation: see :class:`core.data.skip.Skipping`. They are
    listed in a file in the run's folder, ``bad_images.txt`` where they are images. To test and to predict, every item
    has to be readable.

    Args:
        root: Folder of the data set.
        batch_size: Items in a global batch, over all processes.
        hold_out: Share of the training items that is kept for validation, where the format has no such split; 0 for no
            validation.
        workers: Processes that read ahead; by default none for data in memory, else one less than there are cores.
        seed: Seed of order and augmentation; by default the run's (``--seed_everything``).
        skip_limit: How many items may be unreadable before the training is stopped (on each rank, in each split).
        few: Train on this many items only, as many of each class as of another, always the same; None for all.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 128,
        hold_out: float = 0.05,
        workers: int | None = None,
        seed: int | None = None,
        skip_limit: int = 100,
        few: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or not 0 <= hold_out < 1:
            raise InputError(f"batch_size {batch_size} must be >= 1, hold_out {hold_out} in [0, 1)")
        if (workers is not None and workers < 0) or skip_limit < 0:
            raise InputError(f"workers {workers} and skip_limit {skip_limit} must be >= 0")
        self.root = Path(root).expanduser()
        self.batch_size = batch_size
        self.share = hold_out
        self.workers = workers
        self.seed = run_seed() if seed is None else seed
        self.skip_limit = skip_limit
        self.few = few
        self._sets: dict[Split, ItemSet[Any]] = {}

    @abstractmethod
    def _read(self, split: Split) -> ItemSet[Any] | None:
        """A split as its format has it; None if there is none."""

    @abstractmethod
    def _examples(self, items: ItemSet[Any], training: bool) -> Examples:
        """Batches of the items."""

    def items(self, split: Split) -> ItemSet[Any]:
        """The items of a split; opened once.

        Raises:
            InputError: If the data set is missing, damaged, or has no such split.
        """
        if split not in self._sets:
            self._sets.update(self._open(split))
        if split not in self._sets:
            raise InputError(f"{self.root}: has no {split} split")
        return self._sets[split]

    def setup(self, stage: str) -> None:
        """Open what a stage needs, so that whatever is wrong with it is known before anything runs."""
        splits: dict[str, list[Split]] = {
            "fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["predict"]
        }  # fmt: skip
        for split in splits[stage]:
            if split != "val" or stage != "fit" or self._validates():
                self.items(split)

    def train_dataloader(self) -> TrainLoader:
        """This rank's share of every global batch, shuffled and augmented."""
        items = self.items("train")
        return TrainLoader(
            self._examples(items, training=True), self._training_order(items), self._workers(items), self._pin()
        )

    def val_dataloader(self) -> Loader | list[Loader]:
        """Every validation item once; no loader where there is no validation."""
        return self._in_order("val") if self._validates() else []

    def test_dataloader(self) -> Loader:
        """Every test item once."""
        return self._in_order("test")

    def predict_dataloader(self) -> Loader:
        """Every item to predict once."""
        return self._in_order("predict")

    def _training_order(self, items: ItemSet[Any]) -> BatchOrder:
        return Order(len(items), self.batch_size, self.seed, True, *self._place())

    def _in_order(self, split: Split) -> Loader:
        items = self.items(split)
        order = Order(len(items), self.batch_size, self.seed, False, *self._place())
        return Loader(self._examples(items, training=False), order, self._workers(items), self._pin())

    def _open(self, split: Split) -> dict[Split, ItemSet[Any]]:
        """A split, and with it the one from which it is held out: training must not see that, whichever comes first."""
        if split in ("test", "predict"):
            found = self._read(split)
            return {} if found is None else {split: found}
        val = self._read("val")
        if split == "val" and val is not None:
            return {"val": self._skipping(val)}
        train = self._read("train")
        if train is None:
            return {}
        if val is None and self.share:
            train, val = hold_out(train, self.share)
        train = train if self.few is None else few(train, self.few)
        opened: dict[Split, ItemSet[Any]] = {"train": self._skipping(train)}
        return opened if val is None else {**opened, "val": self._skipping(val)}

    def _skipping(self, items: ItemSet[Any]) -> Skipping:
        report = None if self.trainer is None else Path(self.trainer.default_root_dir) / f"bad_{items.noun}.txt"
        return Skipping(items, self.skip_limit, report)

    def _validates(self) -> bool:
        return self.share > 0 or "val" in self._sets or self._read("val") is not None

    def _workers(self, items: ItemSet[Any]) -> int:
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ranks = self.trainer.num_devices if self.trainer is not None else 1
        return 0 if items.in_memory else min(_MOST_WORKERS, max(1, cores // ranks - 1))

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _pin(self) -> bool:
        return torch.cuda.is_available()
