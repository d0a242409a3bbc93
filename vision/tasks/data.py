"""Images for training and evaluation: a LightningDataModule over any format on disk."""

from core.data.auto import Auto
from core.data.examples import ImageExamples, Transform
from core.data.sets import ImageFormat, ImageSet, Split
from core.train.data import ItemData

__all__ = ["ImageData"]


class ImageData(ItemData):
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
        super().__init__(root, batch_size, hold_out, workers, seed, skip_limit, few)
        self.format = format or Auto()
        self.preprocess = preprocess
        self.augment = augment or preprocess

    def images(self, split: Split) -> ImageSet:
        """The images of a split; read once.

        Raises:
            InputError: If the data set is missing, damaged, or has no such split.
        """
        return self.items(split)

    def _read(self, split: Split) -> ImageSet | None:
        return self.format.open(self.root, split)

    def _examples(self, images: ImageSet, training: bool) -> ImageExamples:
        return ImageExamples(images, self.augment if training else self.preprocess, self.seed)
