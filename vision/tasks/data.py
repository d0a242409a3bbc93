"""Images for training and evaluation: a LightningDataModule over any format on disk."""

from pathlib import Path

import torch
from lightning import LightningDataModule

from core.data.examples import ImageExamples, Transform
from core.data.loader import Loader, TrainLoader
from core.data.order import Order
from core.data.sets import ImageFormat, ImageSet, Split, hold_out
from core.errors import InputError
from core.train.seeds import run_seed

__all__ = ["ImageData"]


class ImageData(LightningDataModule):
    """A data set of images: its splits, their preprocessing and augmentation, and the loaders.

    Args:
        root: Folder of the data set.
        format: How it lies there: ``core.data.idx.Idx``, ``core.data.images.ImageFolder``.
        preprocess: Makes tensors for evaluation, and for training if there is no ``augment``.
        augment: Makes tensors for training.
        batch_size: Images in a global batch, over all processes.
        hold_out: Share of the training images that is kept for validation, where the format has no such split.
        workers: Processes that read ahead; 0 is best for data in memory.
        seed: Seed of order and augmentation; by default the run's (``--seed_everything``).
    """

    def __init__(
        self,
        root: str,
        format: ImageFormat,
        preprocess: Transform,
        augment: Transform | None = None,
        batch_size: int = 128,
        hold_out: float = 0.05,
        workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0 or not 0 < hold_out < 1:
            raise InputError(
                f"batch_size {batch_size} must be >= 1, workers {workers} >= 0, hold_out {hold_out} in (0, 1)"
            )
        self.root = Path(root)
        self.format = format
        self.preprocess = preprocess
        self.augment = augment or preprocess
        self.batch_size = batch_size
        self.share = hold_out
        self.workers = workers
        self.seed = run_seed() if seed is None else seed
        self._sets: dict[Split, ImageSet] = {}

    def images(self, split: Split) -> ImageSet:
        """The images of a split; read once.

        Raises:
            InputError: If the data set is missing, damaged, or has no such split.
        """
        if split not in self._sets:
            found = self.format.open(self.root, split)
            if found is None and split == "val":
                train, val = hold_out(self.images("train"), self.share)
                # training must not see what was held out, whichever of the two is asked for first
                self._sets["train"], found = train, val
            if found is None:
                raise InputError(f"{self.root}: has no {split} split")
            self._sets[split] = found
        return self._sets[split]

    def setup(self, stage: str) -> None:
        """Open what a stage needs, so that whatever is wrong with it is known before anything runs."""
        splits: dict[str, list[Split]] = {
            "fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["predict"]
        }  # fmt: skip
        for split in splits[stage]:
            self.images(split)

    def train_dataloader(self) -> TrainLoader:
        """This rank's share of every global batch, shuffled and augmented."""
        images = self.images("train")
        order = Order(len(images), self.batch_size, self.seed, True, *self._place())
        return TrainLoader(ImageExamples(images, self.augment, self.seed), order, self.workers, self._pin())

    def val_dataloader(self) -> Loader:
        """Every validation image once."""
        return self._in_order("val")

    def test_dataloader(self) -> Loader:
        """Every test image once."""
        return self._in_order("test")

    def predict_dataloader(self) -> Loader:
        """Every image to predict once."""
        return self._in_order("predict")

    def _in_order(self, split: Split) -> Loader:
        images = self.images(split)
        order = Order(len(images), self.batch_size, self.seed, False, *self._place())
        return Loader(ImageExamples(images, self.preprocess, self.seed), order, self.workers, self._pin())

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _pin(self) -> bool:
        return torch.cuda.is_available()
