"""Pretraining without labels by masked autoencoding (arXiv:2111.06377)."""

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from core.data.order import keys, uniforms
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from core.train.task import Task
from vision.losses.mae import mae_loss
from vision.mae import MaskedAutoencoder
from vision.vit import ViT

__all__ = ["MAE"]

Batch = dict[str, Tensor]


class MAE(Task):
    """Guess the pixels of hidden patches.

    Logs ``train/loss`` at each step and ``val/loss`` over all processes. What is hidden in training follows PyTorch's
    random state; in validation it follows each image's number, so that losses of two epochs can be compared.

    Args:
        model: Encoder and decoder.
        optim, schedule, ema, initial: See :class:`Task`.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        optim: Optim = Optim(lr=1.5e-4, betas=(0.9, 0.95)),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
    ) -> None:
        super().__init__(model, optim, schedule, ema, initial)
        self.mean = MeanMetric()

    def encoder(self) -> ViT:
        """The encoder: what a training is for."""
        return self._autoencoder().encoder

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) images to the encoder's pooled features (B, dim) of all patches."""
        return self.encoder()(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch, each image with a mask of its own."""
        loss = self._loss(batch["image"])
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss with masks that are always the same."""
        self._measure(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same on the test images."""
        self._measure(batch, "test")

    def _measure(self, batch: Batch, split: str) -> None:
        images = batch["image"]
        draws = uniforms(keys(0, 0, batch["index"].cpu().numpy()), self._patches())
        self.mean.update(self._loss(images, torch.from_numpy(draws).to(images.device)), len(images))
        self.log(f"{split}/loss", self.mean, on_epoch=True, on_step=False, prog_bar=True)

    def _loss(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        config = self._autoencoder().config
        found = self.model(images, noise)
        return mae_loss(found.predicted, images, found.masked, config.encoder.patch, config.normalise)

    def _patches(self) -> int:
        height, width = self._autoencoder().config.encoder.grid
        return height * width

    def _autoencoder(self) -> MaskedAutoencoder:
        assert isinstance(self.model, MaskedAutoencoder)
        return self.model
