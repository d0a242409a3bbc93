"""Pictures of what the encoder sees, drawn while it learns."""

from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from core.data.order import keys, uniforms
from core.data.sets import few
from core.errors import InputError
from core.train.measuring import due, evaluating, run_folder
from core.weights.files import replacing
from vision.explain import attention_maps, patch_colours
from vision.mae import MaskedAutoencoder
from vision.pictures import as_colours, heat, overlay, sheet, shown
from vision.tasks.evaluate import encoder_of
from vision.vit import ViT

__all__ = ["Pictures"]


class Pictures(Callback):
    """Draws a few images that are always the same, after a validation (or an epoch, where there is none).

    For each the image, what the heads of the last block look at, and the principal components of its patches as
    colours; of a masked autoencoder also what it sees and what it makes of that, with masks that are always the same.
    The picture goes to ``pictures/epoch=N.png`` in the run's folder, and to every logger that takes images. Nothing is
    drawn at random.

    Args:
        every: Epochs from one picture to the next; the last epoch is always drawn.
        images: How many images.
        heads: At most so many heads, the first ones.
        side: Of an image in the picture, in pixels.
    """

    def __init__(self, every: int = 1, images: int = 6, heads: int = 6, side: int = 128) -> None:
        if min(every, images, heads, side) < 1:
            raise InputError(f"every {every}, images {images}, heads {heads} and side {side} must be at least 1")
        self.every = every
        self.images = images
        self.heads = heads
        self.side = side

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that there is a ViT and something to show it."""
        if not isinstance(encoder_of(pl_module), ViT):
            raise InputError(f"Pictures needs a ViT, not a {type(encoder_of(pl_module)).__name__}")
        if not hasattr(getattr(trainer, "datamodule", None), "images"):
            raise InputError("Pictures needs data with splits of images: train with ImageData")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if it is time."""
        if not trainer.sanity_checking and (trainer.state.fn != "fit" or due(trainer, self.every)):
            self._draw(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw here where the task has no validation."""
        if not trainer.enable_validation and due(trainer, self.every):
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, task: LightningModule) -> None:
        folder = run_folder(trainer)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        whole = data.images("val")
        some = few(whole, min(self.images, len(whole)))
        pixels = data.preprocess(some.read(range(len(some))), keys(0, 0, np.arange(len(some))))
        # every process computes it, since the model may be sharded; the first one keeps it
        with evaluating(task), trainer.precision_plugin.forward_context():
            page = self._page(task, pixels.to(task.device, task.dtype))
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        with replacing(folder / "pictures" / f"epoch={trainer.current_epoch}.png") as draft:
            page.save(draft, "PNG")
        for logger in trainer.loggers:
            board = getattr(logger, "experiment", None)
            if board is not None and hasattr(board, "add_image"):
                board.add_image("pictures", np.asarray(page), trainer.global_step, dataformats="HWC")

    def _page(self, task: LightningModule, pixels: Tensor) -> Image.Image:
        vit = encoder_of(task)
        assert isinstance(vit, ViT)
        maps = attention_maps(vit, pixels)[:, : self.heads]
        titles = ["image", *(f"head {head}" for head in range(maps.shape[1])), "components"]
        colours = patch_colours(vit, pixels)
        rows = []
        for image, of_image, colour in zip(pixels, maps, colours, strict=True):
            picture = shown(image)
            heads = [overlay(picture, heat(weights)) for weights in of_image]
            rows.append([picture, *heads, as_colours(colour)])
        model = task.model
        if isinstance(model, MaskedAutoencoder):
            noise = torch.from_numpy(uniforms(keys(0, 0, np.arange(len(pixels))), _patches(model))).to(pixels.device)
            seen, made = model.hide(pixels, noise), model.reconstruct(pixels, noise)
            titles += ["seen", "reconstructed"]
            for row, *pair in zip(rows, seen, made, strict=True):
                row += [shown(image) for image in pair]
        return sheet(rows, [titles], self.side)


def _patches(model: MaskedAutoencoder) -> int:
    height, width = model.config.encoder.grid
    return height * width
