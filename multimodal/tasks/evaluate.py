"""How well two towers fit together, measured while they are trained: zero-shot classification and retrieval."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from core.data.examples import ImageExamples
from core.data.order import keys
from core.data.sets import ImageSet, Split, few
from core.errors import InputError
from core.train.folders import write_text
from core.train.measuring import due, evaluating, run_folder
from multimodal.retrieval import recall_at
from multimodal.tasks.data import ImageTextData
from multimodal.templates import templates
from multimodal.zero_shot import label_embeddings, text_embeddings
from vision.tasks.evaluate import embed_images

__all__ = ["EvaluatePairs"]

CHUNK = 1024  # images whose texts are made at once


class EvaluatePairs(Callback):
    """Classifies held-out images by text, and looks for each image's text and each text's image.

    Logs, for ``val`` (and, in ``sensorium test``, for ``test``): ``zero_shot`` and ``zero_shot_top5``, the share of
    images whose class is the best, or among the best five, of all classes read as text (open_clip's protocol), where
    the images have labels; ``image_to_text_R@k`` and ``text_to_image_R@k`` for k of 1, 5 and 10, one text an image
    (:func:`multimodal.retrieval.recall_at`). Results and protocol go to ``evaluate_pairs.json`` in the run's folder.

    Args:
        every: Epochs from one measurement to the next; the last epoch is always measured.
        sentences: What a label is put into; see :func:`multimodal.templates.templates`.
        names: Words for the classes, in their order; by default the classes' own names.
        images: The most images to measure on, as many of each class as there can be.
        batch_size: Images that are embedded at once; no result depends on it.
    """

    def __init__(
        self,
        every: int = 1,
        sentences: str | list[str] = "photo",
        names: list[str] | None = None,
        images: int = 10_000,
        batch_size: int = 256,
    ) -> None:
        if min(every, images, batch_size) < 1:
            raise InputError(f"every {every}, images {images} and batch_size {batch_size} must be at least 1")
        self.every = every
        self.sentences = templates(sentences)
        self.names = names
        self.images = images
        self.batch_size = batch_size
        self.results: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The results so far: a resumed run goes on writing them."""
        return {"results": self.results}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the results."""
        self.results = list(state_dict["results"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that there are texts, before anything runs."""
        if not isinstance(trainer.datamodule, ImageTextData):  # type: ignore[attr-defined]
            raise InputError("EvaluatePairs needs images and texts: train with ImageTextData")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, if it is time."""
        if not trainer.sanity_checking and (trainer.state.fn != "fit" or due(trainer, self.every)):
            self._measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure on the test images."""
        self._measure(trainer, pl_module, "test")

    def _measure(self, trainer: Trainer, task: LightningModule, split: Split) -> None:
        data: ImageTextData = trainer.datamodule  # type: ignore[attr-defined]
        images = data.images(split)
        images = images if len(images) <= self.images else few(images, self.images)
        model: Any = task.model
        with evaluating(task), torch.inference_mode():
            x, labels = embed_images(
                trainer, task, model.encode_image, ImageExamples(images, data.preprocess), self.batch_size
            )
            found = {} if labels is None else self._zero_shot(model, data, images.classes, x, labels)
            texts = text_embeddings(model, data.tokenizer, _texts(data, images))
            found |= recall_at(x, texts)
        task.log_dict({f"{split}/{name}": value for name, value in found.items()}, sync_dist=True)
        if trainer.state.fn == "fit":
            when: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        else:  # the checkpoint's own results are in the folder of its run
            self.results, when = [], {"checkpoint": str(trainer.ckpt_path)}
        self.results.append({**when, "split": split, **found})
        folder = run_folder(trainer)  # asked by every process
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            protocol = {"sentences": self.sentences, "names": self.names or images.classes, "images": len(images)}
            content = {"protocol": protocol, "results": self.results}
            write_text(folder / "evaluate_pairs.json", json.dumps(content, indent=2) + "\n")

    def _zero_shot(
        self, model: Any, data: ImageTextData, classes: Sequence[str], x: Tensor, labels: Tensor
    ) -> dict[str, float]:
        names = self.names or classes
        if len(names) != len(classes):
            raise InputError(f"EvaluatePairs has {len(names)} names, and the images {len(classes)} classes")
        logits = x @ label_embeddings(model, data.tokenizer, names, self.sentences).T
        hits = logits.topk(min(5, len(names))).indices == labels[:, None]
        return {"zero_shot": float(hits[:, 0].float().mean()), "zero_shot_top5": float(hits.any(1).float().mean())}


def _texts(data: ImageTextData, images: ImageSet) -> list[str]:
    """One text for each image, always the same."""
    texts: list[str] = []
    for start in range(0, len(images), CHUNK):
        numbers = list(range(start, min(start + CHUNK, len(images))))
        pictures, taken = images.take(numbers)
        texts += data.captions(pictures, taken, images, keys(0, 0, np.array(numbers)))
    return texts
