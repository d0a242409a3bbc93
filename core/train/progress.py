"""Progress as lines of text, for logs and pipes where a moving bar would be noise."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

__all__ = ["EpochLines"]


class EpochLines(ProgressBar):
    """One line for each epoch: what the progress bar would show, and the seconds that it took."""

    def __init__(self) -> None:
        super().__init__()
        self._began = 0.0
        self._enabled = True

    def disable(self) -> None:
        """Say nothing (on all ranks but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Say something again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print what a task wants to be printed."""
        if self._enabled:
            print(*args, **kwargs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, also where training goes on within an epoch."""
        super().on_train_start(trainer, pl_module)
        self._began = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_train_epoch_start(trainer, pl_module)
        self._began = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        metrics = self.get_metrics(trainer, pl_module)
        shown = "  ".join(f"{name} {_short(value)}" for name, value in metrics.items() if name != "v_num")
        number, total = trainer.current_epoch + 1, trainer.max_epochs
        of = f"/{total}" if total is not None and total > 0 else ""
        self.print(f"epoch {number}{of}  {shown}  ({time.monotonic() - self._began:.1f} s)", flush=True)


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
