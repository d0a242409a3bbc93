"""What callbacks that measure need: when it is time, where results go, and the model at rest."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning import Trainer
from torch import nn

__all__ = ["due", "evaluating", "run_folder"]


@contextmanager
def evaluating(task: nn.Module) -> Iterator[None]:
    """Without gradients and with every module in evaluation; afterwards each is as it was."""
    trained = [module for module in task.modules() if module.training]
    try:
        task.eval()
        with torch.no_grad():
            yield
    finally:
        for module in trained:
            module.training = True


def due(trainer: Trainer, every: int) -> bool:
    """Whether this epoch is measured: each ``every``-th, and the last."""
    done = trainer.current_epoch + 1
    last = done == trainer.max_epochs or trainer.global_step == trainer.max_steps or trainer.should_stop
    return done % every == 0 or last


def run_folder(trainer: Trainer) -> Path:
    """Where a run's results go; every process has to ask."""
    return Path(trainer.log_dir or trainer.default_root_dir)
