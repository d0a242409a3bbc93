"""What a checkpoint says of itself: the recipe, from which a run is built again by the file alone."""

import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from core.errors import InputError
from core.train.folders import write_text

__all__ = ["Best", "Last", "Recipe", "read_checkpoint", "read_recipe"]

KEY = "recipe"


class Recipe(Callback):
    """Puts the configuration into the run's folder, as ``config.yaml``, and into each of its checkpoints.

    Args:
        folder: The run's folder.
        recipe: Plain values by section: ``model``, ``data``, ``trainer``, ``seed_everything``, ``name``.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.folder = folder
        self.recipe = recipe

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            write_text(self.folder / "config.yaml", yaml.safe_dump(self.recipe, sort_keys=False))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the recipe."""
        checkpoint[KEY] = self.recipe


class _Kept(ModelCheckpoint):
    """Lightning's callback that goes on after resuming into another folder, where Lightning's forgets the best so far.

    The classes are our own also because Lightning tells callbacks apart by class, and a configuration may add others.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the scores and paths so far; files in another folder are never removed."""
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})


class Best(_Kept):
    """Keeps ``best.ckpt``, chosen by the task's own quantity."""

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)


class Last(_Kept):
    """Keeps ``last.ckpt``, the state after the latest epoch, or within epochs after every so many steps."""

    def __init__(self, folder: Path, steps: int | None = None) -> None:
        super().__init__(
            folder,
            "last",
            every_n_train_steps=steps,
            save_on_train_epoch_end=steps is None,
            enable_version_counter=False,
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, its tensors mapped rather than read; nothing in the file is executed.

    Raises:
        InputError: If the file is missing, is no checkpoint of a training, or holds objects that are not plain data.
    """
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder; expected a checkpoint in one file (sharded ones hold pickles that run code)"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        # one that isn't a zip file is of the legacy format, which can't be mapped
        with warnings.catch_warnings(action="ignore"):  # of pickles that it is going to refuse
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        raise InputError(
            f"{path}: not a checkpoint, or one with more than weights and plain values, which could run code"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a checkpoint of PyTorch, or damaged") from error
    if not isinstance(content, dict) or "state_dict" not in content or "loops" not in content:
        raise InputError(f"{path}: not a checkpoint of sensorium fit: it has no state of a training")
    return content


def read_recipe(path: Path) -> dict[str, Any]:
    """The configuration that a checkpoint was trained with.

    Raises:
        InputError: If the checkpoint can't be read, or has none.
    """
    recipe = read_checkpoint(path).get(KEY)
    if not isinstance(recipe, dict):
        raise InputError(f"{path}: a checkpoint without its configuration; add it: -c FILE.yaml")
    return recipe
