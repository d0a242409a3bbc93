"""Linear probe: how much a frozen encoder knows, measured by a linear classifier on its features."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import InputError
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from vision.tasks.classify import Batch, Classify

__all__ = ["Probe"]


class Probe(Classify):
    """A linear classifier on the pooled features of an encoder that is frozen and in evaluation mode.

    Args:
        model: Maps (B, C, H, W) images to (B, dim) features: a ViT with ``classes: 0``.
        dim: Width of the features.
        classes: Number of classes.
        batch_norm: Whether features are normalised over the batch first, without learned scale and shift (MAE,
            arXiv:2111.06377, appendix A.1).
        remember: Whether features are computed once for each image and kept in memory: only where training images are
            not augmented. They are not in the checkpoint; a resumed run computes them again.
        optim, schedule, initial: See :class:`Task`.
    """

    def __init__(
        self,
        model: nn.Module,
        dim: int,
        classes: int,
        batch_norm: bool = True,
        remember: bool = False,
        optim: Optim = Optim(lr=1e-3, weight_decay=0.0),
        schedule: Schedule = Schedule(),
        initial: Initial | None = None,
    ) -> None:
        super().__init__(model, classes, optim=optim, schedule=schedule, initial=initial)
        self.model.requires_grad_(False)
        norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6) if batch_norm else nn.Identity()
        self.head = nn.Sequential(norm, nn.Linear(dim, classes))
        nn.init.trunc_normal_(self.head[1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.head[1].bias)  # type: ignore[arg-type]
        self.dim = dim
        self.remember = remember
        self._known: dict[int, Tensor] = {}

    def train(self, mode: bool = True) -> Self:
        """Train the head; the encoder never drops anything out."""
        super().train(mode)
        self.model.eval()
        return self

    def on_fit_start(self) -> None:
        """Refuse to remember what changes from epoch to epoch."""
        self._known.clear()
        data = getattr(self.trainer, "datamodule", None)
        if self.remember and data is not None and getattr(data, "augment", None) is not data.preprocess:
            raise InputError("features of augmented images can't be remembered: leave out data.augment, or remember")

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) images to (B, classes) float32 logits."""
        return self.head(self.features(images)).float()

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) images to the encoder's (B, dim) features.

        Raises:
            InputError: If the encoder returns something else.
        """
        found: Tensor = self.model(images)
        if found.ndim != 2 or found.shape[1] != self.dim:
            raise InputError(
                f"the encoder returns {tuple(found.shape)}, expected (batch, {self.dim}): set dim, and classes: 0"
            )
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        features = self._recalled(batch) if self.remember else self.features(batch["image"])
        loss = F.cross_entropy(self.head(features).float(), batch["label"])
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss

    def _recalled(self, batch: Batch) -> Tensor:
        """Features of a batch, computed for the images that have not been seen yet."""
        numbers = batch["index"].tolist()
        new = [row for row, number in enumerate(numbers) if number not in self._known]
        if new:
            for row, found in zip(new, self.features(batch["image"][new]), strict=True):
                self._known[numbers[row]] = found
        return torch.stack([self._known[number] for number in numbers])
