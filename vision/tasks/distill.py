"""Supervised training that also listens to a teacher: its logits (DeiT, Hinton), or its features."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import InputError
from core.train.adapt import Adapt
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from core.train.seeds import run_seed
from core.train.teacher import Frozen
from vision.augment import Mix
from vision.losses.distill import Cosine, Distillation, Hard, Similarity
from vision.pool import TwoHeads
from vision.tasks.classify import Batch, Classify
from vision.vit import ViT

__all__ = ["Distill", "DistillFeatures", "Teacher"]


class Teacher(Frozen[Any]):
    """A frozen model that is never in training mode.

    Args:
        model: Any classifier or encoder.
        initial: Fills the model before the training: ``vision.tasks.initial.Pretrained`` with ``whole: true``.
        precision: What it computes in.
    """

    def __init__(
        self,
        model: nn.Module,
        initial: Initial | None = None,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__(model, initial, precision)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the model's (B, classes) logits of (B, C, H, W) in float32."""
        with self.computing(images.device.type):
            return self.model(images).float()

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return a ViT's normalised patches (B, patches, dim) of (B, C, H, W) in float32."""
        with self.computing(images.device.type):
            return patches(self.model, images).float()


class Taught(Classify):
    """A classifier with a teacher, which begins together with it."""

    teacher: Teacher

    def setup(self, stage: str) -> None:
        """Fill the student and the teacher."""
        super().setup(stage)
        if stage == "fit" and not self.resumes:
            self.teacher.begin()


class Distill(Taught):
    """Labels and the logits of a teacher: (1 - alpha) * cross-entropy + alpha * distillation (DeiT).

    A student with DeiT's distillation token hears the teacher with that token's head, the labels with the other. The
    teacher sees the same augmented and mixed images. It is in the checkpoint, so nothing else is needed to go on.

    Args:
        model, classes, smoothing, mix, optim, schedule, ema, initial, adapt: See :class:`Classify`.
        teacher: Who is listened to.
        loss: How.
        alpha: Share of the teacher.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        teacher: Teacher,
        loss: Distillation = Hard(),
        alpha: float = 0.5,
        smoothing: float = 0.0,
        mix: Mix | None = None,
        optim: Optim = Optim(),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, classes, smoothing, mix, optim, schedule, ema, initial, adapt)
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha {alpha}: the share of the teacher must be in [0, 1]")
        self.teacher = teacher
        self.loss = loss
        self.alpha = alpha

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        images, targets = batch["image"], batch["label"]
        if self.mix is not None:
            images, targets = self.mix(images, targets, self.classes, (run_seed(), self.current_epoch, batch_idx))
        said, echoed = self._logits(images)
        told = self.teacher(images)
        if told.shape != echoed.shape:
            raise InputError(
                f"the teacher gives {tuple(told.shape)}, the student {tuple(echoed.shape)}: they need the same classes"
            )
        label = F.cross_entropy(said, targets, label_smoothing=self.smoothing)
        distillation = self.loss(echoed, told)
        loss = (1 - self.alpha) * label + self.alpha * distillation
        self.log_dict({"train/label": label, "train/distillation": distillation}, on_step=True, sync_dist=True)
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss

    def _logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits for the labels and for the teacher, in float32; the same ones without a distillation token."""
        head = getattr(self.model, "head", None)
        if isinstance(self.model, ViT) and isinstance(head, TwoHeads):
            said, echoed = head.both(self.model.pool(self.model.features(images).x))
            return said.float(), echoed.float()
        logits = self(images)
        return logits, logits


class DistillFeatures(Taught):
    """Labels and the features of a teacher: cross-entropy + weight * distance of the patches.

    The student's patches are projected to the teacher's width; both must have the same number of them.

    Args:
        model, classes, smoothing, optim, schedule, ema, initial, adapt: See :class:`Classify`; the model is a ViT.
        teacher: A ViT.
        loss: Distance of projected and true features.
        weight: Of the distance.

    Raises:
        InputError: If one of the two is no ViT.
    """

    def __init__(
        self,
        model: ViT,
        classes: int,
        teacher: Teacher,
        loss: Similarity = Cosine(),
        weight: float = 1.0,
        smoothing: float = 0.0,
        optim: Optim = Optim(),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, classes, smoothing, None, optim, schedule, ema, initial, adapt)
        if not isinstance(teacher.model, ViT):
            raise InputError(f"features are taken from ViTs; the teacher is a {type(teacher.model).__name__}")
        self.teacher = teacher
        self.projection = nn.Linear(model.config.dim, teacher.model.config.dim)
        self.loss = loss
        self.weight = weight

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        assert isinstance(self.model, ViT)
        images = batch["image"]
        tokens = self.model.features(images).x
        mine, theirs = self.projection(tokens[:, self.model.config.prefix :]).float(), self.teacher.features(images)
        if mine.shape != theirs.shape:
            raise InputError(
                f"the student has {mine.shape[1]} patches and the teacher {theirs.shape[1]}: give both the same patch"
            )
        logits = self.model.head(self.model.pool(tokens)).float()
        label = F.cross_entropy(logits, batch["label"], label_smoothing=self.smoothing)
        distance = self.loss(mine, theirs)
        loss = label + self.weight * distance
        self.log_dict({"train/label": label, "train/distance": distance}, on_step=True, sync_dist=True)
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss


def patches(model: Any, images: Tensor) -> Tensor:
    """The normalised tokens (B, patches, dim) of a ViT's patches."""
    return model.features(images).x[:, model.config.prefix :]
