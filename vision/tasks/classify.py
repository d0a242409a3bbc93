"""Supervised classification of images."""

import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import InputError
from core.train.adapt import Adapt
from core.train.classification import Batch, Classification
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from core.train.seeds import run_seed
from vision.augment import Mix

__all__ = ["Batch", "Classify"]


class Classify(Classification):
    """Cross-entropy over classes, for any model that maps (B, C, H, W) images to (B, classes) logits.

    Logs ``train/loss`` at each step; ``loss``, ``accuracy`` and ``top5`` of ``val`` and ``test``, over all processes.
    Predictions are dictionaries of ``index`` (B,) and ``probabilities`` (B, classes).

    Args:
        model: The classifier.
        classes: Number of classes.
        smoothing: Label smoothing (arXiv:1512.00567): the share of the target that is spread over all classes.
        mix: Mixup and CutMix of the training batches.
        optim, schedule, ema, initial, adapt: See :class:`Task`; they fine-tune what was trained otherwise.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        smoothing: float = 0.0,
        mix: Mix | None = None,
        optim: Optim = Optim(),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, classes, smoothing, optim, schedule, ema, initial, adapt)
        self.mix = mix

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) images to (B, classes) float32 logits."""
        logits: Tensor = self.model(images)
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise InputError(
                f"the model returns {tuple(logits.shape)}, expected (batch, {self.classes}): set the model's classes"
            )
        return logits.float()

    def logits(self, batch: Batch) -> Tensor:
        """Those of its images."""
        return self(batch["image"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        images, targets = batch["image"], batch["label"]
        if self.mix is not None:
            images, targets = self.mix(images, targets, self.classes, (run_seed(), self.current_epoch, batch_idx))
        loss = F.cross_entropy(self(images), targets, label_smoothing=self.smoothing)
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss
