"""Exact resuming: every random state of every rank, and the position in the data, are in the checkpoint.

Lightning stores no random state, and restores the position of a loader only in some cases (not if
``configure_optimizers`` asked how long the training is, not after a finished epoch). This callback does both, after
everything else has been restored.
"""

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from core.data.loader import TrainLoader
from core.data.order import keys
from core.train.processes import gathered_items

__all__ = ["Resume", "random_state", "set_random_state"]

State = dict[str, Any]


class Resume(Callback):
    """Makes a run that was stopped and resumed identical, bit for bit, to one that was not.

    On another number of processes the data goes on exactly where it was, while the random states can't be dealt out
    anew: each rank then starts from a state derived from (seed, optimizer step, rank), with a warning.

    A fresh run gives every rank but the first a random state of its own; with a common one, all would drop out the
    same units.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._restored: State | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the random states by rank and the position in the data; every rank takes part."""
        positions = [loader.state_dict() for loader in _loaders(trainer)]
        checkpoint["resume"] = {"random": gathered_items([random_state()]), "data": positions}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what was stored until the training starts."""
        self._restored = checkpoint.get("resume")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore: nothing is drawn and no batch is read between this hook and the first step."""
        state, self._restored = self._restored, None
        rank, world = trainer.global_rank, trainer.world_size
        if state is None:
            if rank > 0:
                set_random_state(self._derived(0, rank))
            return
        loaders = _loaders(trainer)
        for loader, position in zip(loaders, state["data"], strict=True):
            loader.load_state_dict(position)
        if len(state["random"]) == world:
            set_random_state(state["random"][rank])
            return
        rank_zero_warn(
            f"the checkpoint is from {len(state['random'])} process(es), this run has {world}: "
            "the data goes on exactly where it was, dropout and other noise are drawn anew"
        )
        set_random_state(self._derived(trainer.global_step, rank))

    def _derived(self, step: int, rank: int) -> State:
        """A random state that follows from (seed, step, rank); made without touching the present one."""
        seed = int(keys(self.seed, step, np.array([rank]))[0])
        generator = torch.Generator().manual_seed(seed)
        python = random.Random(seed).getstate()
        return {
            "python": [python[0], list(python[1]), python[2]],
            "numpy": _numpy_state(np.random.RandomState(seed % 2**32)),
            "torch": generator.get_state(),
            "cuda": [
                torch.Generator(f"cuda:{i}").manual_seed(seed).get_state() for i in range(torch.cuda.device_count())
            ],
        }


def random_state() -> State:
    """The states of Python's, NumPy's and PyTorch's generators in this process, of tensors and plain values only."""
    version, words, gauss = random.getstate()
    return {
        "python": [version, list(words), gauss],
        "numpy": _numpy_state(np.random.mtrand._rand),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: State) -> None:
    """Put the generators into the states that :func:`random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, words, *rest = state["numpy"]
    np.random.set_state((name, np.array(words, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _numpy_state(generator: np.random.RandomState) -> list[Any]:
    name, words, position, has_gauss, gauss = generator.get_state()
    return [name, [int(word) for word in words], position, has_gauss, gauss]


def _loaders(trainer: Trainer) -> list[TrainLoader]:
    source = trainer.train_dataloader
    found = source if isinstance(source, list | tuple) else source.values() if isinstance(source, dict) else [source]
    return [loader for loader in found if isinstance(loader, TrainLoader)]
