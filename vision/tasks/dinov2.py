"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193): DINO, iBOT and KoLeo; Gram anchoring of DINOv3 (arXiv:2508.10104)."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError
from core.train.course import Cosine, Ramp
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from core.train.seeds import run_seed
from vision.dino_head import DINOHead, HeadConfig
from vision.losses import Centre, DINOLoss, GramLoss, IBOTLoss, KoLeoLoss, SinkhornKnopp
from vision.masking import BlockMasks
from vision.tasks.self_distillation import VIEWS, Batch, SelfDistillation
from vision.vit import ViT

__all__ = ["DINOv2", "Gram"]


@dataclass(frozen=True)
class Gram:
    """When patches are anchored to what an earlier teacher saw, and how strongly.

    Args:
        weight: Of the loss.
        begin: Share of all optimizer steps after which it begins; the Gram teacher is the teacher of that moment.
        renew: Share of all optimizer steps after which the Gram teacher is taken anew.
    """

    weight: float = 2.0
    begin: float = 0.5
    renew: float = 0.02

    def __post_init__(self) -> None:
        if not (0 <= self.begin <= 1 and 0 < self.renew <= 1):
            raise InputError(f"{self}: begin must be in [0, 1], renew in (0, 1]")

    def active(self, step: int, total: int) -> bool:
        """Whether there is a loss at this step."""
        return step >= round(self.begin * total)

    def due(self, step: int, total: int) -> bool:
        """Whether the Gram teacher is taken anew before this step."""
        return self.active(step, total) and (step - round(self.begin * total)) % max(1, round(self.renew * total)) == 0


class DINOv2(SelfDistillation):
    """DINO on the class tokens, iBOT on masked patches, KoLeo on the class tokens of the global crops.

    The student runs over all crops in one packed pass. Logs each part of the loss and ``train/loss`` at each step.

    Args:
        model: The student's backbone, with a class token and a mask token, without classes.
        head: Shape of DINO's heads.
        ibot_head: Shape of iBOT's heads; None = patches and class tokens share DINO's.
        centring: Sinkhorn-Knopp, or softmax less a running centre.
        student_temperature: Of the student.
        ibot, koleo: Weights of these parts; DINO's is 1.
        masks: Which patches of the global crops the student doesn't see.
        gram: Gram anchoring; None = none.
        optim, schedule, momentum, weight_decay, temperature, freeze, start, initial: See :class:`SelfDistillation`.

    Raises:
        InputError: If the model has no class token or no mask token.
    """

    def __init__(
        self,
        model: ViT,
        head: HeadConfig = HeadConfig(trained_scale=True),
        ibot_head: HeadConfig | None = None,
        centring: Literal["sinkhorn", "softmax"] = "sinkhorn",
        student_temperature: float = 0.1,
        ibot: float = 1.0,
        koleo: float = 0.1,
        masks: BlockMasks = BlockMasks(),
        gram: Gram | None = None,
        optim: Optim = Optim(lr=1e-3, layer_decay=0.9),
        schedule: Schedule = Schedule(warmup=0.1),
        momentum: Cosine = Cosine(0.992, 1.0),
        weight_decay: Cosine = Cosine(0.04, 0.4),
        temperature: Ramp = Ramp(0.04, 0.07),
        freeze: int = 1,
        start: str | None = None,
        initial: Initial | None = None,
    ) -> None:
        if not (model.config.cls_token and model.config.mask_token):
            raise InputError("DINOv2 needs a class token and a mask token: set the model's cls_token and mask_token")
        heads = {"dino": DINOHead(model.config.dim, head)}
        if ibot_head is not None:
            heads["ibot"] = DINOHead(model.config.dim, ibot_head)
        super().__init__(model, heads, optim, schedule, momentum, weight_decay, temperature, freeze, start, initial)
        self.patch_head = "dino" if ibot_head is None else "ibot"
        widths = head.prototypes, (head if ibot_head is None else ibot_head).prototypes
        targets = [SinkhornKnopp() if centring == "sinkhorn" else Centre(width) for width in widths]
        self.dino = DINOLoss(targets[0], student_temperature)
        self.ibot = IBOTLoss(targets[1], student_temperature)
        self.koleo = KoLeoLoss()
        self.weights = {"dino": 1.0, "ibot": ibot, "koleo": koleo, "gram": 0.0 if gram is None else gram.weight}
        self.masks = masks
        self.gram = gram
        self.gram_loss = GramLoss()
        self.anchor = None if gram is None else deepcopy(model).requires_grad_(False).eval()

    def centre(self) -> Tensor | None:
        """The centre (K,) of the teacher's logits of class tokens; None under Sinkhorn-Knopp."""
        return self.dino.centring.value if isinstance(self.dino.centring, Centre) else None

    def train(self, mode: bool = True) -> "DINOv2":
        """Train the student; neither teacher drops anything out."""
        super().train(mode)
        if self.anchor is not None:
            self.anchor.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        crops: list[Tensor] = batch["crops"]
        masked = self._masks(crops[0], batch_idx)
        prefix = self.student().config.prefix
        temperature = self.teacher_temperature()
        with torch.no_grad():
            seen = self.encoder().features(crops[0]).x  # (2 B, prefix + P, D)
            teacher = self._heads(self.teacher["heads"], seen[:, 0], seen[:, prefix:][masked])
        tokens = self.student().packed(crops, [masked, *[None] * (len(crops) - 1)])
        classes = torch.cat([group[:, 0] for group in tokens])  # (crops * B, D)
        patches = tokens[0][:, prefix:]  # (2 B, P, D)
        student = self._heads(self.heads, classes, patches[masked])
        images = len(crops[0]) // VIEWS
        losses = {
            # (crops * B, K) -> (crops, B, K)
            "dino": self.dino(*(x[0].unflatten(0, (-1, images)) for x in (student, teacher)), temperature),
            "ibot": self.ibot(student[1], teacher[1], masked, temperature),
        }
        if self.weights["koleo"]:
            views = classes[: VIEWS * images].chunk(VIEWS)
            losses["koleo"] = torch.stack([self.koleo(view) for view in views]).sum()
        if self.gram is not None and self.gram.active(*self._progress()):
            losses["gram"] = self.gram_loss(patches, self._anchored(crops[0])[:, prefix:])
        return self.total({name: self.weights[name] * loss for name, loss in losses.items()})

    def _heads(self, heads: torch.nn.Module, classes: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of class tokens (N, D) and patches (M, D): (N, K) and (M, K')."""
        assert isinstance(heads, torch.nn.ModuleDict)
        if self.patch_head == "ibot":
            return heads["dino"](classes), heads["ibot"](patches)
        # one pass, so that the prototypes are normalised once
        both = heads["dino"](torch.cat([classes, patches])).split([len(classes), len(patches)])
        return both[0], both[1]

    def _masks(self, views: Tensor, batch_idx: int) -> Tensor:
        """The masks (2 B, P) of this process's share of the global crops."""
        mine, world = len(views) // VIEWS, self.trainer.world_size
        images = np.arange(mine) + self.trainer.global_rank * mine
        rows = np.concatenate([images + view * mine * world for view in range(VIEWS)])
        patch = self.student().config.patch
        grid = views.shape[2] // patch, views.shape[3] // patch
        masks = self.masks(rows, VIEWS * mine * world, grid, run_seed(), self.current_epoch, batch_idx)
        return masks.to(views.device)

    @torch.no_grad()
    def _anchored(self, views: Tensor) -> Tensor:
        """What the Gram teacher, perhaps taken anew, makes of the global crops."""
        assert self.gram is not None
        assert self.anchor is not None
        if self.gram.due(*self._progress()):
            self.anchor.load_state_dict(self.encoder().state_dict())
        return self.anchor.features(views).x
