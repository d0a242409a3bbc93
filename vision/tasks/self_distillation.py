"""What DINO and DINOv2 share: a student, the teacher that follows it, and how both move in the course of a training."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from core.errors import InputError
from core.train.course import Cosine, Ramp
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from core.train.task import Task
from vision.dino_head import DINOHead
from vision.dino_weights import Network, load_training
from vision.vit import ViT

__all__ = ["VIEWS", "Batch", "SelfDistillation"]

Batch = dict[str, Any]
VIEWS = 2  # global crops of an image


class SelfDistillation(Task):
    """A student learns what its own running average, the teacher, says of other crops of the same image.

    A subclass gives the heads and the training step. Batches hold ``crops``, a list of (crops of this size * B, C, H,
    W) in which all images' first crops come before all second ones; the first entry are the :data:`VIEWS` global ones.

    Student, teacher, centres and heads are in the checkpoint; everything that moves is a function of the number of
    optimizer steps, so a resumed run goes on as if it had not been stopped.

    Args:
        model: The student's backbone, without classes.
        heads: The student's heads by name; the teacher gets copies.
        optim, schedule: See :class:`Task`; the optimizer's weight decay is replaced by ``weight_decay``.
        momentum: Weight of the past in the teacher.
        weight_decay: Of the matrices.
        temperature: Of the teacher.
        freeze: Epochs in which the heads' prototypes stay as they are.
        start: A training checkpoint of facebookresearch/dino or dinov2 to begin with.
        initial: Fills student and teacher with an encoder to begin with; the heads are new.

    Raises:
        InputError: If the model has classes, or there are both ``start`` and ``initial``.
    """

    monitor = "train/loss"
    mode = "min"

    def __init__(
        self,
        model: ViT,
        heads: Mapping[str, DINOHead],
        optim: Optim,
        schedule: Schedule,
        momentum: Cosine,
        weight_decay: Cosine,
        temperature: Ramp,
        freeze: int,
        start: str | None,
        initial: Initial | None = None,
    ) -> None:
        super().__init__(model, optim, schedule, initial=initial)
        if start is not None and initial is not None:
            raise InputError("a training begins either with start (encoder and heads) or with initial (an encoder)")
        if model.config.classes:
            raise InputError(f"self-distillation trains features: set the model's classes {model.config.classes} to 0")
        if not (0 <= momentum.start <= 1 and 0 <= momentum.end <= 1):
            raise InputError(f"the teacher's momentum {momentum} must be in [0, 1]")
        if temperature.start <= 0 or temperature.end <= 0:
            raise InputError(f"the teacher's temperature {temperature} must be positive")
        self.heads = nn.ModuleDict(heads)
        self.teacher = nn.ModuleDict({"model": deepcopy(model), "heads": deepcopy(self.heads)})
        self.teacher.requires_grad_(False).eval()
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.temperature = temperature
        self.frozen_epochs = freeze
        self.start = start

    def encoder(self) -> ViT:
        """The teacher's backbone: what a training is for."""
        model = self.teacher["model"]
        assert isinstance(model, ViT)
        return model

    def student(self) -> ViT:
        """The student's backbone."""
        assert isinstance(self.model, ViT)
        return self.model

    def centre(self) -> Tensor | None:
        """The centre (K,) of the teacher's logits of class tokens, if there is one."""
        return None

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) images to the teacher's pooled features (B, dim)."""
        return self.encoder()(images)

    def train(self, mode: bool = True) -> Self:
        """Train the student; the teacher never drops anything out."""
        super().train(mode)
        self.teacher.eval()
        return self

    def on_fit_start(self) -> None:
        """Refuse a precision in which the teacher would stand still."""
        if any(weight.dtype.itemsize < 4 for weight in self.teacher.parameters()):
            raise InputError(
                f"precision {self.trainer.precision} rounds the teacher's small steps away: choose bf16-mixed or 32"
            )

    def on_train_start(self) -> None:
        """Begin with what was published, or with a teacher that equals the student; a resumed run has its own.

        Raises:
            InputError: If the published weights can't be read or don't fit.
        """
        if self.trainer.global_step == 0:
            if self.start is None:
                self.follow(0.0)
            else:
                student = Network(self.student(), _heads(self.heads))
                teacher = Network(self.encoder(), _heads(self.teacher["heads"]))
                load_training(Path(self.start), student, teacher, self.centre())
        super().on_train_start()

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher towards the student: teacher = momentum * teacher + (1 - momentum) * student."""
        mine: list[Tensor] = [*self.model.parameters(), *self.heads.parameters()]
        torch._foreach_lerp_(list(self.teacher.parameters()), mine, 1 - momentum)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step with the weight decay of now, then move the teacher."""
        step, total = self._progress()
        for group in optimizer.param_groups:
            if group["name"].rpartition(".")[2] == "decay":
                group["weight_decay"] = self.weight_decay.at(step, total)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.follow(self.momentum.at(step, total))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep the prototypes in the first epochs: a head that moves at once makes all images alike."""
        if self.current_epoch < self.frozen_epochs:
            for head in _heads(self.heads).values():
                for parameter in head.last.parameters():
                    parameter.grad = None

    def teacher_temperature(self) -> float:
        """The teacher's temperature at this step."""
        return self.temperature.at(*self._progress())

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Log the weighted parts of the loss and return their sum.

        Raises:
            InputError: If it is not a finite number; it says which part and in which step.
        """
        total = torch.stack(list(losses.values())).sum()
        if not total.isfinite():
            bad = ", ".join(f"{name} is {loss.item()}" for name, loss in losses.items() if not loss.isfinite())
            raise InputError(
                f"the loss of step {self.trainer.global_step} is not finite ({bad or f'their sum is {total.item()}'}): "
                "lower the learning rate, clip gradients, or train in bf16-mixed instead of float16"
            )
        for name, loss in losses.items():
            self.log(f"train/{name}", loss, on_step=True, sync_dist=True)
        self.log("train/loss", total, on_step=True, prog_bar=True, sync_dist=True)
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing by itself: what the features are worth is measured by :class:`vision.tasks.evaluate.Evaluate`."""

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing by itself, likewise."""

    def _progress(self) -> tuple[int, int]:
        """Optimizer steps so far, and of the whole training."""
        return self.trainer.global_step, int(self.trainer.estimated_stepping_batches)


def _heads(heads: nn.Module) -> dict[str, DINOHead]:
    return {name: head for name, head in heads.named_children() if isinstance(head, DINOHead)}
