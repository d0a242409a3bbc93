"""Training of a denoiser: with classes, with texts, or without either."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from core.data.order import keys, uniforms
from core.errors import InputError
from core.train.adapt import Adapt
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from core.train.task import Task
from diffusion.condition import Condition, Labels, mixed
from diffusion.latents import Latents, Pixels
from diffusion.noise import Noise
from diffusion.process import Process
from diffusion.tasks.repa import Repa

__all__ = ["Batch", "Diffuse"]

Batch = dict[str, Tensor]


class Diffuse(Task):
    """Undo noise: any model, any process between data and noise, in pixels or in latents.

    Logs ``train/loss`` at each step and, if the loss has several, its parts; ``val/loss`` and ``test/loss`` over all
    processes. Times and noise of a training follow PyTorch's random state; to validate and to test they follow each
    picture's number, so that losses of two epochs can be compared.

    Batches have ``image`` (B, C, H, W) in [-1, 1], or ``moments`` where latents were computed in advance
    (:class:`diffusion.tasks.data.LatentData`); ``label`` (B,) for a model with classes; ``text`` for one with texts.

    Args:
        model: The denoiser, such as :class:`diffusion.dit.DiT`.
        process: What it undoes.
        latents: What is denoised; by default the pixels.
        drop: Share of the pictures of which the model is not told what they show: it learns both, so that its samples
            can be guided (arXiv:2207.12598).
        text: Maps what the data makes of texts to :class:`diffusion.condition.Text`, such as
            ``multimodal.tasks.told.Told``; for a model that is told texts.
        repa: Alignment of the model's tokens with those of an encoder.
        optim, schedule, ema, initial, adapt: See :class:`Task`.
    """

    def __init__(
        self,
        model: nn.Module,
        process: Process,
        latents: Latents | None = None,
        drop: float = 0.1,
        text: nn.Module | None = None,
        repa: Repa | None = None,
        optim: Optim = Optim(lr=1e-4, weight_decay=0.0),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, optim, schedule, ema, initial, adapt)
        if not 0 <= drop < 1:
            raise InputError(f"drop {drop}: the share of pictures without a condition must be in [0, 1)")
        if (text is None) == hasattr(getattr(model, "config", None), "text_dim"):
            found = f"{type(model).__name__} is told {'classes' if text is not None else 'texts'}"
            raise InputError(f"{found}: {'leave text out' if text is not None else 'say by text what encodes them'}")
        if repa is not None and not hasattr(model, "features"):
            raise InputError(f"repa: {type(model).__name__} doesn't hand out its tokens; expected a DiT")
        self.process = process
        self.latents = Pixels() if latents is None else latents
        self.drop = drop
        self.text = text
        self.repa = repa
        self.class_names: list[str] = []
        self.means = nn.ModuleDict({split: MeanMetric() for split in ("val", "test")})

    @property
    def classes(self) -> int:
        """How many classes the model knows."""
        return int(getattr(self.model.config, "classes", 0))

    def setup(self, stage: str) -> None:
        """Take the names of the classes from the data, and see that it fits.

        Raises:
            InputError: If a model with classes has data without labels or with more of them, or if latents that were
                computed in advance are of another autoencoder.
        """
        super().setup(stage)
        if stage == "fit" and self.repa is not None and not self.resumes:
            self.repa.teacher.begin()
        data = getattr(self.trainer, "datamodule", None)
        if data is None or stage == "predict":
            return
        if hasattr(data, "check"):
            data.check(self.latents)
        if hasattr(self.text, "check"):
            self.text.check(self.model, data)  # type: ignore[union-attr, operator]
        items = data.items({"fit": "train", "validate": "val", "test": "test"}[stage])
        if self.text is not None:
            self.class_names = list(items.classes)  # samples may be asked for by these names
        if not self.classes:
            return
        if items.labels is None:
            raise InputError(f"{data.root}: the {items.noun} have no labels; set the model's classes to 0 or give some")
        if len(items.classes) > self.classes:
            raise InputError(f"the data has {len(items.classes)} classes, the model {self.classes}: set its classes")
        self.class_names = list(items.classes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        x0 = self.latents.drawn(self._moments(batch))
        draws, noise = torch.rand(len(x0), device=x0.device), torch.randn(x0.shape, device=x0.device)
        condition = self._condition(batch)
        if condition is not None and self.drop:
            told = torch.rand(len(x0), device=x0.device) >= self.drop
            condition = mixed(told, condition, self._untold(condition))
        losses, parts = self._losses(x0, noise, draws, condition, batch)
        if len(parts) > 1:
            logged = {f"train/{name}": values.mean() for name, values in parts.items()}
            self.log_dict(logged, on_step=True, sync_dist=True)
        loss = losses.mean()
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss with times and noise that are always the same."""
        self._measure(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same on the test images."""
        self._measure(batch, "test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the names of the classes: whoever asks for a picture uses them."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["class_names"] = self.class_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the names of the classes."""
        self.class_names = checkpoint.get("class_names", [])

    def _measure(self, batch: Batch, split: str) -> None:
        x0 = self.latents.expected(self._moments(batch))
        numbers = batch["index"].cpu().numpy()
        draws = torch.from_numpy(uniforms(keys(0, 0, numbers), 1)[:, 0]).to(x0.device, torch.float32)
        noise = Noise(numbers.tolist(), x0.shape[1:], x0.device)()
        losses, _ = self._losses(x0, noise, draws, self._condition(batch))
        mean: Any = self.means[split]
        mean.update(losses)
        self.log(f"{split}/loss", mean, on_epoch=True, on_step=False, prog_bar=True)

    def _losses(
        self, x0: Tensor, noise: Tensor, draws: Tensor, condition: Condition, batch: Batch | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses (B,) and their parts; with the alignment if there is a batch to align with."""
        t = self.process.times(draws)
        x_t = self.process.noised(x0, noise, t)
        # the model is told times in float32, like those of the solvers
        told = t.to(x0.dtype)
        if self.repa is None or batch is None:
            return self.process.loss(self.model(x_t, told, condition), x0, x_t, noise, t)
        output, notes = self.model.features(x_t, told, condition, want=self.repa.want)  # type: ignore[operator]
        losses, parts = self.process.loss(output, x0, x_t, noise, t)
        apart = self.repa(notes, batch)
        return losses + self.repa.weight * apart, {**parts, "repa": apart}

    def _untold(self, condition: Condition) -> Condition:
        model: Any = self.model
        silent: Condition = model.unconditional(condition)
        return silent

    def _moments(self, batch: Batch) -> Tensor:
        return batch["moments"] if "moments" in batch else self.latents.moments(batch["image"])

    def _condition(self, batch: Batch) -> Condition:
        if self.text is not None:
            said: Condition = self.text(batch["text"])
            return said
        return Labels(batch["label"]) if self.classes else None
