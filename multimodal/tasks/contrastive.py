"""Contrastive training of two towers: CLIP (arXiv:2103.00020), SigLIP (arXiv:2303.15343), LiT (arXiv:2111.07991)."""

from typing import Any

import torch
from torch import Tensor

from core.errors import InputError
from core.train.adapt import Adapt
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.processes import gathered_items
from core.train.schedule import Schedule
from core.train.task import Task
from multimodal.coca import CoCa
from multimodal.losses import cached, info_nce, measured_loss, siglip
from multimodal.two_towers import Towers, TwoTowers

__all__ = ["Contrastive"]

Batch = dict[str, Tensor]


class Contrastive(Task):
    """Pulls an image and its text together, and pushes the other pairs of the batch apart.

    A model without a bias is trained by softmax over the batch (CLIP), one with a bias by a sigmoid for each pair
    (SigLIP). The batch is that of all processes. LiT is ``adapt: core.train.adapt.Lock`` with ``parts: [image]``.

    Logs ``train/loss`` and ``train/scale`` at each step, and ``loss`` of ``val`` and ``test``, whose value depends on
    the batch size: compare runs by the evaluators' figures.

    Args:
        model: The towers.
        cache: Pairs that are embedded at once; the batch may then be larger than memory (GradCache). None embeds all
            at once, which is faster.
        most: The largest factor of the cosines.
        optim, schedule, ema, initial, adapt: See :class:`Task`. ``optim.parts`` may slow down a tower.
    """

    def __init__(
        self,
        model: TwoTowers | CoCa,
        cache: int | None = None,
        most: float = 100.0,
        optim: Optim = Optim(lr=5e-4, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, optim, schedule, ema, initial, adapt)
        if cache is not None and cache < 1:
            raise InputError(f"cache {cache}: the number of pairs that are embedded at once must be at least 1")
        self.cache = cache
        self.most = most
        self._pairs: list[tuple[int, Tensor, Tensor]] = []

    def encoder(self) -> Any:
        """The image tower."""
        image = self._towers().image
        return getattr(image, "tower", image)  # CoCa's is within what pools it

    def forward(self, images: Tensor, ids: Tensor) -> Any:
        """Embed images (B, C, H, W) and texts (B, L)."""
        return self.model(images, ids)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        loss = self._loss(batch["image"], batch["text"], self.cache)
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        self.log("train/scale", self._towers().logit_scale.detach().exp(), on_step=True)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Keep the scale within its bounds."""
        self._towers().clamp(self.most)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Embed a batch; its loss is that of all processes' rows together, so it has to wait for the others."""
        self._embed(batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation."""
        self._embed(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the loss."""
        self.log("val/loss", self._measured(), prog_bar=True, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log the loss."""
        self.log("test/loss", self._measured(), sync_dist=True)

    def _embed(self, batch: Batch, batch_idx: int) -> None:
        pair = self.model(batch["image"], batch["text"])
        self._pairs.append((batch_idx, pair.image.float().cpu(), pair.text.float().cpu()))

    def _measured(self) -> float:
        """The mean over all pairs of the losses of their batches, each of all processes' rows."""
        batches: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for number, image, text in gathered_items(self._pairs):
            batches.setdefault(number, []).append((image, text))
        self._pairs = []
        towers = self._towers()
        scale = float(towers.logit_scale.exp())
        bias = None if towers.logit_bias is None else float(towers.logit_bias)
        total = rows = 0.0
        for parts in batches.values():
            image, text = (torch.cat(side) for side in zip(*parts, strict=True))
            total += len(image) * measured_loss(image, text, scale, bias)
            rows += len(image)
        return total / rows

    def _loss(self, images: Tensor, ids: Tensor, cache: int | None) -> Tensor:
        towers = self._towers()
        if cache is None or not torch.is_grad_enabled():
            pair = self.model(images, ids)
            image, text = pair.image, pair.text
        else:
            parts = list(zip(images.split(cache), ids.split(cache), strict=True))
            image, text = cached(lambda part: self.model(*part)[:2], parts, self.model.parameters())
        scale = towers.logit_scale.exp()
        if towers.logit_bias is None:
            return info_nce(image, text, scale)
        return siglip(image, text, scale, towers.logit_bias)

    def _towers(self) -> Towers:
        assert isinstance(self.model, Towers)
        return self.model
