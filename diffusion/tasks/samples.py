"""A grid of samples, drawn while the model learns: always of the same seeds."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from core.errors import InputError
from core.train.measuring import due, evaluating, run_folder
from core.weights.files import replacing
from diffusion.generate import Generator, Settings
from diffusion.tasks.diffuse import Diffuse

__all__ = ["Samples", "generator_of"]


class Samples(Callback):
    """Draws samples after a validation, with the averaged weights where there is an average.

    A column for each class, a row for each seed; without classes a square. The picture goes to
    ``samples/epoch=N.png`` in the run's folder and to every logger that takes images. The training's random state
    isn't touched.

    Args:
        every: Epochs from one picture to the next; the last epoch is always drawn.
        rows: Seeds.
        columns: The most classes.
        settings: How to sample.
    """

    def __init__(self, every: int = 1, rows: int = 4, columns: int = 10, settings: Settings = Settings()) -> None:
        if min(every, rows, columns) < 1:
            raise InputError(f"every {every}, rows {rows} and columns {columns} of samples must be at least 1")
        self.every = every
        self.rows = rows
        self.columns = columns
        self.settings = settings

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if it is time."""
        if trainer.sanity_checking or (trainer.state.fn == "fit" and not due(trainer, self.every)):
            return
        folder = run_folder(trainer)
        # every process computes it, since the model may be sharded; the first one keeps it
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            page = self._page(generator_of(pl_module, self.settings))
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        with replacing(folder / "samples" / f"epoch={trainer.current_epoch}.png") as draft:
            Image.fromarray(page.numpy()).save(draft, "PNG")
        for logger in trainer.loggers:
            board = getattr(logger, "experiment", None)
            if board is not None and hasattr(board, "add_image"):
                board.add_image("samples", page.numpy(), trainer.global_step, dataformats="HWC")

    def _page(self, generator: Generator) -> Tensor:
        """(H, W, 3) uint8."""
        classes = generator.config.classes
        columns = min(classes, self.columns) if classes else self.rows
        asked = [column if classes else None for _ in range(self.rows) for column in range(columns)]
        seeds = [row if classes else row * columns + column for row in range(self.rows) for column in range(columns)]
        pictures = torch.stack(list(generator.draw(asked, seeds))).permute(0, 3, 1, 2)
        return make_grid(pictures, nrow=columns, pad_value=255).permute(1, 2, 0)


def generator_of(task: Any, settings: Settings) -> Generator:
    """What draws with a task's model as it is now.

    Raises:
        InputError: if the task trains no denoiser, or one that needs texts.
    """
    if not isinstance(task, Diffuse):
        raise InputError(f"samples are drawn from a denoiser; {type(task).__name__} trains none")
    if task.text is not None:
        raise InputError("samples in training are of classes, or of nothing: a model of texts has none")
    return Generator(task.model, task.process, task.latents, task.class_names, settings)
