"""Training of CoCa (arXiv:2205.01917): the contrastive loss, and that of writing the caption."""

from typing import Any

from torch import Tensor
from torchmetrics import MeanMetric

from core.errors import InputError
from core.train.adapt import Adapt
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from multimodal.coca import CoCa
from multimodal.losses import captioning, info_nce
from multimodal.tasks.contrastive import Batch, Contrastive

__all__ = ["Captioning"]


class Captioning(Contrastive):
    """Trains towers that compare images and texts, and a decoder that writes each text from its image, in one pass.

    Args:
        model: The towers and the decoder.
        caption: Weight of the captioning loss beside the contrastive one; 2 in the paper and in open_clip.
        most: The largest factor of the cosines.
        optim, schedule, ema, initial, adapt: See :class:`core.train.task.Task`.
    """

    def __init__(
        self,
        model: CoCa,
        caption: float = 2.0,
        most: float = 100.0,
        optim: Optim = Optim(lr=5e-4, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, None, most, optim, schedule, ema, initial, adapt)
        if caption < 0:
            raise InputError(f"caption {caption}: the weight of the captioning loss can't be negative")
        self.caption = caption
        self.written = MeanMetric()  # over tokens

    def _loss(self, images: Tensor, ids: Tensor, cache: int | None) -> Tensor:
        model: Any = self.model
        found = model(images, ids)
        return info_nce(found.image, found.text, found.scale) + self.caption * self._written(found, ids)

    def _embed(self, batch: Batch, batch_idx: int) -> None:
        found = self.model(batch["image"], batch["text"])
        self._pairs.append((batch_idx, found.image.float().cpu(), found.text.float().cpu()))
        tokens = int((batch["text"][:, 1:] != self._towers().config.pad).sum())  # type: ignore[union-attr]
        self.written.update(self._written(found, batch["text"]), tokens)

    def _measured(self) -> float:
        written = float(self.written.compute())
        self.written.reset()
        return super()._measured() + self.caption * written

    def _written(self, found: Any, ids: Tensor) -> Tensor:
        model: Any = self.model
        return captioning(found.states, model.decoder.head.weight, ids[:, 1:], model.config.pad)
