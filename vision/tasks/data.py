"""Images for training and evaluation: a LightningDataModule over any format on disk."""

from typing import Any

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
        items: See :class:`core.train.data.ItemData`.
    """

    def __init__(
        self,
        root: str,
        preprocess: Transform,
        format: ImageFormat | None = None,
        augment: Transform | None = None,
        **items: Any,
    ) -> None:
        super().__init__(root, **items)
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
