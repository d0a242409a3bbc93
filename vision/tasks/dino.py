"""DINO: self-distillation without labels (Caron et al. 2021, arXiv:2104.14294)."""

from typing import Literal

import torch
from torch import Tensor

from core.train.course import Cosine, Ramp
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from vision.dino_head import DINOHead, HeadConfig
from vision.losses import Centre, DINOLoss, SinkhornKnopp
from vision.tasks.self_distillation import VIEWS, Batch, SelfDistillation
from vision.vit import ViT

__all__ = ["DINO"]


class DINO(SelfDistillation):
    """The student sees all crops of an image and says what the teacher says of the other global ones.

    Logs ``train/dino`` and ``train/loss`` at each step.

    Args:
        model: The student's backbone, without classes.
        head: Shape of the heads.
        centring: A running centre of the teacher's logits ("softmax"), or Sinkhorn-Knopp (SwAV), which
            keeps small models in short trainings from collapsing.
        centre_momentum: Of the running centre.
        student_temperature: Of the student.
        optim, schedule, momentum, weight_decay, temperature, freeze, start, initial: See :class:`SelfDistillation`.
    """

    def __init__(
        self,
        model: ViT,
        head: HeadConfig = HeadConfig(),
        centring: Literal["softmax", "sinkhorn"] = "softmax",
        centre_momentum: float = 0.9,
        student_temperature: float = 0.1,
        optim: Optim = Optim(lr=5e-4),
        schedule: Schedule = Schedule(warmup=0.1),
        momentum: Cosine = Cosine(0.996, 1.0),
        weight_decay: Cosine = Cosine(0.04, 0.4),
        temperature: Ramp = Ramp(0.04, 0.07),
        freeze: int = 1,
        start: str | None = None,
        initial: Initial | None = None,
    ) -> None:
        heads = {"dino": DINOHead(model.config.dim, head)}
        super().__init__(model, heads, optim, schedule, momentum, weight_decay, temperature, freeze, start, initial)
        targets = SinkhornKnopp() if centring == "sinkhorn" else Centre(head.prototypes, centre_momentum)
        self.dino = DINOLoss(targets, student_temperature)

    def centre(self) -> Tensor | None:
        """The centre (K,) of the teacher's logits; None under Sinkhorn-Knopp."""
        return self.dino.centring.value if isinstance(self.dino.centring, Centre) else None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        crops: list[Tensor] = batch["crops"]
        images = len(crops[0]) // VIEWS
        with torch.no_grad():
            teacher = self.teacher["heads"]["dino"](self(crops[0]))  # type: ignore[index]
        model = self.student()
        features = torch.cat([model.pool(tokens) for tokens in model.packed(crops)])
        student = self.heads["dino"](features)
        # (crops * B, K) -> (crops, B, K)
        loss = self.dino(
            student.unflatten(0, (-1, images)), teacher.unflatten(0, (-1, images)), self.teacher_temperature()
        )
        return self.total({"dino": loss})
