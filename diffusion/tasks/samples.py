"""A grid of samples, drawn while the model learns: always of the same seeds."""

from collections.abc import Sequence
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
from diffusion.prompting import Asked
from diffusion.tasks.diffuse import Diffuse

__all__ = ["PHOTO", "Samples", "generator_of", "subjects"]

PHOTO = "a photo of a {}"


class Samples(Callback):
    """Draws samples after a validation, with the averaged weights where there is an average.

    A column for each class or text, a row for each seed; of a model that is told neither a square. The picture goes to
    ``samples/epoch=N.png`` in the run's folder and to every logger that takes images. The training's random state
    isn't touched.

    Args:
        every: Epochs from one picture to the next; the last epoch is always drawn.
        rows: Seeds.
        columns: The most classes or texts.
        settings: How to sample.
        prompts: What is asked of a model of texts; by default each class of the data, in ``sentence``.
        sentence: With ``{}`` where the name of a class goes.
    """

    def __init__(
        self,
        every: int = 1,
        rows: int = 4,
        columns: int = 10,
        settings: Settings = Settings(),
        prompts: list[str] | None = None,
        sentence: str = PHOTO,
    ) -> None:
        if min(every, rows, columns) < 1:
            raise InputError(f"every {every}, rows {rows} and columns {columns} of samples must be at least 1")
        self.every = every
        self.rows = rows
        self.columns = columns
        self.settings = settings
        self.prompts = prompts
        self.sentence = sentence

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if it is time."""
        if trainer.sanity_checking or (trainer.state.fn == "fit" and not due(trainer, self.every)):
            return
        folder = run_folder(trainer)
        # every process computes it, since the model may be sharded; the first one keeps it
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            asked = subjects(pl_module, self.prompts, self.sentence)[: self.columns]
            page = self._page(generator_of(pl_module, self.settings), asked)
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        with replacing(folder / "samples" / f"epoch={trainer.current_epoch}.png") as draft:
            Image.fromarray(page.numpy()).save(draft, "PNG")
        for logger in trainer.loggers:
            board = getattr(logger, "experiment", None)
            if board is not None and hasattr(board, "add_image"):
                board.add_image("samples", page.numpy(), trainer.global_step, dataformats="HWC")

    def _page(self, generator: Generator, asked: Sequence[Asked]) -> Tensor:
        """(H, W, 3) uint8."""
        columns = len(asked) or self.rows
        seeds = [row if asked else row * columns + column for row in range(self.rows) for column in range(columns)]
        pictures = torch.stack(list(generator.draw(list(asked or [None] * columns) * self.rows, seeds)))
        return make_grid(pictures.permute(0, 3, 1, 2), nrow=columns, pad_value=255).permute(1, 2, 0)


def generator_of(task: Any, settings: Settings) -> Generator:
    """What draws with a task's model as it is now.

    Raises:
        InputError: if the task trains no denoiser, or what encodes texts for it can't say how to read them.
    """
    if not isinstance(task, Diffuse):
        raise InputError(f"samples are drawn from a denoiser; {type(task).__name__} trains none")
    if task.text is not None and not hasattr(task.text, "prompts"):
        raise InputError(f"no samples: a {type(task.text).__name__} encodes ids alone; use multimodal.tasks.told.Told")
    prompts = None if task.text is None else task.text.prompts()  # type: ignore[operator]
    return Generator(task.model, task.process, task.latents, task.class_names, settings, prompts)


def subjects(task: Any, prompts: Sequence[str] | None = None, sentence: str = PHOTO) -> list[Asked]:
    """What samples of a task show: its classes by number; or texts, one for each class of its data; or nothing, [].

    Args:
        task: that trains a denoiser.
        prompts: instead of those texts.
        sentence: that names of classes are put into.

    Raises:
        InputError: if there are texts for a model that isn't told any, or none for one that is.
    """
    if getattr(task, "text", None) is None:
        if prompts is not None:
            raise InputError("prompts for samples of a model that is told no texts: leave them out")
        return list(range(task.classes)) if isinstance(task, Diffuse) else []
    found = [sentence.replace("{}", name) for name in task.class_names] if prompts is None else list(prompts)
    if not found:
        raise InputError("nothing is known that samples could show, since the data names no classes: give prompts")
    return list(found)
