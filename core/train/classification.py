"""Supervised classification of anything, with the names of the classes and the usual figures."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from core.errors import InputError
from core.train.adapt import Adapt
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from core.train.task import Task
from core.train.writer import PredictionWriter

__all__ = ["Batch", "Classification"]

Batch = dict[str, Tensor]


class Classification(Task):
    """Cross-entropy over classes; a subclass says how a batch becomes logits.

    Logs ``train/loss`` at each step; ``loss``, ``accuracy`` and ``top5`` of ``val`` and ``test``, over all processes.
    Predictions are dictionaries of ``index`` (B,) and ``probabilities`` (B, classes).

    Args:
        model: The classifier.
        classes: Number of classes.
        smoothing: Label smoothing (arXiv:1512.00567): the share of the target that is spread over all classes.
        optim, schedule, ema, initial, adapt: See :class:`Task`; they fine-tune what was trained otherwise.
    """

    monitor = "val/accuracy"
    mode = "max"

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        smoothing: float = 0.0,
        optim: Optim = Optim(),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, optim, schedule, ema, initial, adapt)
        if classes < 2 or not 0 <= smoothing < 1:
            raise InputError(f"classes {classes} must be at least 2 and smoothing {smoothing} in [0, 1)")
        self.classes = classes
        self.smoothing = smoothing
        self.class_names: list[str] = []
        self.metrics = nn.ModuleDict({split: _metrics(classes) for split in ("val", "test")})

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """The (B, classes) float32 logits of a batch."""

    def setup(self, stage: str) -> None:
        """Take the names of the classes from the data.

        Raises:
            InputError: If the data has no labels, or more classes than the model.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if data is None or stage == "predict":
            return
        items = data.items({"fit": "train", "validate": "val", "test": "test"}[stage])
        if items.labels is None:
            raise InputError(
                f"{data.root}: the {items.noun} have no labels; expected two or more class folders, or labels in the "
                "files"
            )
        names = items.classes
        if len(names) > self.classes:
            raise InputError(
                f"the data has {len(names)} classes, the task {self.classes}: set model.classes and the model's head"
            )
        self.class_names = names

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        loss = F.cross_entropy(self.logits(batch), batch["label"], label_smoothing=self.smoothing)
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count hits and losses."""
        self._count("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count hits and losses."""
        self._count("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """The probabilities of each class."""
        return {"index": batch["index"], "probabilities": self.logits(batch).softmax(-1)}

    def prediction_writer(self, folder: Path) -> PredictionWriter:
        """Writes ``predictions.csv``."""
        return PredictionWriter(folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the names of the classes: a prediction needs them where the data doesn't say."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["class_names"] = self.class_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the names of the classes."""
        self.class_names = checkpoint.get("class_names", [])

    def _count(self, split: str, batch: Batch) -> None:
        logits, labels = self.logits(batch), batch["label"]
        losses = F.cross_entropy(logits, labels, reduction="none")
        metrics = self.metrics[split]
        assert isinstance(metrics, nn.ModuleDict)
        for name, metric in metrics.items():
            assert isinstance(metric, Metric)
            metric.update(*((losses,) if name == "loss" else (logits, labels)))
            self.log(f"{split}/{name}", metric, on_epoch=True, on_step=False, prog_bar=name == "accuracy")


def _metrics(classes: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "loss": MeanMetric(),
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "top5": MulticlassAccuracy(classes, top_k=min(5, classes), average="micro"),
        }
    )
