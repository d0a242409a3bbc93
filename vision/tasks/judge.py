"""An image encoder of the suite as a judge of generated pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from core.errors import InputError
from core.train.judge import Judge, Judgement
from core.weights.files import digest
from vision.features import Feature, image_features
from vision.load import load_encoder
from vision.preprocess import Preparation, preparation
from vision.tasks.trained import load_trained

__all__ = ["EncoderJudge", "prepared"]


class EncoderJudge(Judge):
    """Features of an encoder; logits too if it has a head.

    Args:
        path: a ``.ckpt`` of ours, a bundle, or weights with the names of timm, Hugging Face or the authors.
        feature: what of its tokens is taken: see :func:`vision.features.image_features`.
        batch: pictures at once.

    Raises:
        InputError: if there is no encoder.
    """

    def __init__(self, path: str, feature: Feature = "pooled", batch: int = 250) -> None:
        if batch < 1:
            raise InputError(f"batch {batch} of a judge: expected 1 or more")
        self.path = Path(path).expanduser()
        self.feature: Feature = feature
        self.batch = batch
        load = load_trained if self.path.suffix == ".ckpt" else load_encoder
        model, origin = load(self.path)
        self.model: Any = model.requires_grad_(False)
        config: Any = model.config
        self.prepare = preparation(tuple(config.image), config.channels, origin.preprocessing)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Tensor]) -> Judgement:
        """See :class:`core.train.judge.Judge`."""
        features, logits = [], []
        for first in range(0, len(pictures), self.batch):
            images = prepared(pictures[first : first + self.batch], self.prepare)
            features.append(image_features(self.model, images, self.feature).float())
            if getattr(self.model.config, "classes", 0):
                logits.append(self.model(images).float())
        return Judgement(torch.cat(features), torch.cat(logits) if logits else None)

    def protocol(self) -> dict[str, Any]:
        """See :class:`core.train.judge.Judge`."""
        name = type(self.model).__name__
        return {"judge": f"{name} of the suite", "weights": digest(self.path), "feature": self.feature}


def prepared(pictures: Sequence[Tensor], prepare: Preparation) -> Tensor:
    """Return pictures (H, W, C) uint8 as a model takes them: (B, C, height, width) float32."""
    arrays = [picture.cpu().numpy() for picture in pictures]
    images = [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in arrays]
    return torch.stack([prepare(image) for image in images])
