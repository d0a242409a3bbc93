"""Images and texts for training and evaluation: a LightningDataModule over any format that ImageData reads."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from core.data.examples import ImageExamples, Transform
from core.data.order import Key, keys
from core.data.sets import ImageSet, Part
from core.data.skip import Skipping
from multimodal.captions import Captioner, Given
from multimodal.find_tokenizer import open_tokenizer
from multimodal.tokenizer import TextTokenizer
from vision.tasks.data import ImageData

__all__ = ["ImageTextData", "PairExamples"]


class PairExamples(ImageExamples):
    """Batches of transformed images and tokenised texts: those of :class:`ImageExamples` with ``text`` (B, context).

    Args:
        images: The set.
        transform: Makes the tensor.
        captions: Finds a text for each image.
        tokenizer: Makes ids of it.
        seed: Seed of the keys.
    """

    def __init__(
        self, images: ImageSet, transform: Transform, captions: Captioner, tokenizer: TextTokenizer, seed: int = 0
    ) -> None:
        super().__init__(images, transform, seed)
        self.captions = captions
        self.tokenizer = tokenizer

    def __getitems__(self, wanted: list[Key]) -> dict[str, Any]:
        indices = np.array([index for _, index in wanted], np.int64)
        images, taken = self.images.take(indices.tolist())
        batch = self.made(images, taken, keys(self.seed, wanted[0][0], indices))
        # a seed of its own: the choice of a text must not go with the augmentation of its image
        texts = self.captions(images, taken, self.images, keys(self.seed + 1, wanted[0][0], indices))
        return {**batch, "text": self.tokenizer(texts)}


class ImageTextData(ImageData):
    """A data set of images with texts.

    Where some images have captions and others don't, those without are left out of training and validation.

    Args:
        root, preprocess, images: See :class:`vision.tasks.data.ImageData`.
        captions: The texts; by default those that the data has.
        vary: The texts in training, such as :class:`multimodal.text_augment.Varied`; by default ``captions``.
        tokenizer: ``clip``, a file of merges (``multimodal.bpe``), or the folder of a model.
        context: Tokens of a text.
    """

    def __init__(
        self,
        root: str,
        preprocess: Transform,
        captions: Captioner | None = None,
        tokenizer: str = "clip",
        context: int = 77,
        vary: Captioner | None = None,
        **images: Any,
    ) -> None:
        super().__init__(root, preprocess, **images)
        self.captions = captions or Given()
        self.vary = vary or self.captions
        self.tokenizer_path = tokenizer
        self.tokenizer = open_tokenizer(tokenizer, context)

    def tokenizer_file(self) -> Path | None:
        """The vocabulary's file, which a bundle of the model needs; None where CLIP's own serves."""
        return None if self.tokenizer_path == "clip" else Path(self.tokenizer_path)

    def _skipping(self, images: ImageSet) -> Skipping:
        if isinstance(self.captions, Given) and images.captions is not None and not all(images.captions):
            said = np.array([bool(texts) for texts in images.captions])
            warnings.warn(f"{np.count_nonzero(~said)} of {len(said)} images have no caption: left out", stacklevel=2)
            images = Part(images, np.flatnonzero(said))
        return super()._skipping(images)

    def _examples(self, images: ImageSet, training: bool) -> ImageExamples:
        transform, captions = (self.augment, self.vary) if training else (self.preprocess, self.captions)
        return PairExamples(images, transform, captions, self.tokenizer, self.seed)
