"""Images for training and evaluation: a LightningDataModule over any format on disk."""

import os
from pathlib import Path

import torch
from lightning import LightningDataModule

from core.data.auto import Auto
from core.data.examples import ImageExamples, Transform
from core.data.loader import Loader, TrainLoader
from core.data.order import Order
from core.data.sets import ImageFormat, ImageSet, Split, few, hold_out
from core.data.skip import Skipping
from core.errors import InputError
from core.train.seeds import run_seed

__all__ = ["ImageData"]

_MOST_WORKERS = 8  # by default; decoding keeps up with one device long before


class ImageData(LightningDataModule):
    """A data set of images: its splits, their preprocessing and augmentation, and the loaders.

    Images that can't be read are passed over in training and validation: see :class:`core.data.skip.Skipping`. They
    are listed in ``bad_images.txt`` in the run's folder. To test and to predict, every image has to be readable.

    Args:
        root: Folder of the data set.
        preprocess: Makes tensors for evaluation, and for training if there is no ``augment``.
        format: How it lies there, such as ``core.data.images.ImageFolder``; by default recognised
            (``core.data.auto.recognise``).
        augment: Makes tensors for training.
        batch_size: Images in a global batch, over all processes.
        hold_out: Share of the training images that is kept for validation, where the format has no such split; 0 for no
            validation.
        workers: Processes that read ahead; by default none for data in memory, else one less than there are cores.
        seed: Seed of order and augmentation; by default the run's (``--seed_everything``).
        skip_limit: How many images may be unreadable before the training is stopped (on each rank, in each split).
        few: Train on this many images only, as many of each class as of another, always the same; None for all.
    """

    def __init__(
        self,
        root: str,
        preprocess: Transform,
        format: ImageFormat | None = None,
        augment: Transform | None = None,
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
        self.format = format or Auto()
        self.preprocess = preprocess
        self.augment = augment or preprocess
        self.batch_size = batch_size
        self.share = hold_out
        self.workers = workers
        self.seed = run_seed() if seed is None else seed
        self.skip_limit = skip_limit
        self.few = few
        self._sets: dict[Split, ImageSet] = {}

    def images(self, split: Split) -> ImageSet:
        """The images of a split; read once.

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
                self.images(split)

    def train_dataloader(self) -> TrainLoader:
        """This rank's share of every global batch, shuffled and augmented."""
        images = self.images("train")
        order = Order(len(images), self.batch_size, self.seed, True, *self._place())
        return TrainLoader(self._examples(images, training=True), order, self._workers(images), self._pin())

    def val_dataloader(self) -> Loader | list[Loader]:
        """Every validation image once; no loader where there is no validation."""
        return self._in_order("val") if self._validates() else []

    def test_dataloader(self) -> Loader:
        """Every test image once."""
        return self._in_order("test")

    def predict_dataloader(self) -> Loader:
        """Every image to predict once."""
        return self._in_order("predict")

    def _in_order(self, split: Split) -> Loader:
        images = self.images(split)
        order = Order(len(images), self.batch_size, self.seed, False, *self._place())
        return Loader(self._examples(images, training=False), order, self._workers(images), self._pin())

    def _examples(self, images: ImageSet, training: bool) -> ImageExamples:
        return ImageExamples(images, self.augment if training else self.preprocess, self.seed)

    def _open(self, split: Split) -> dict[Split, ImageSet]:
        """A split, and with it the one from which it is held out: training must not see that, whichever comes first."""
        if split in ("test", "predict"):
            found = self.format.open(self.root, split)
            return {} if found is None else {split: found}
        val = self.format.open(self.root, "val")
        if split == "val" and val is not None:
            return {"val": self._skipping(val)}
        train = self.format.open(self.root, "train")
        if train is None:
            return {}
        if val is None and self.share:
            train, val = hold_out(train, self.share)
        train = train if self.few is None else few(train, self.few)
        opened: dict[Split, ImageSet] = {"train": self._skipping(train)}
        return opened if val is None else {**opened, "val": self._skipping(val)}

    def _skipping(self, images: ImageSet) -> Skipping:
        report = None if self.trainer is None else Path(self.trainer.default_root_dir) / "bad_images.txt"
        return Skipping(images, self.skip_limit, report)

    def _validates(self) -> bool:
        return self.share > 0 or "val" in self._sets or self.format.open(self.root, "val") is not None

    def _workers(self, images: ImageSet) -> int:
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ranks = self.trainer.num_devices if self.trainer is not None else 1
        return 0 if images.in_memory else min(_MOST_WORKERS, max(1, cores // ranks - 1))

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _pin(self) -> bool:
        return torch.cuda.is_available()
