"""The base of every training task: a model, its optimizer and schedule, and an average of its weights."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from core.errors import InputError
from core.train.adapt import Adapt
from core.train.ema import EMA
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule

__all__ = ["Task"]


class Task(LightningModule):
    """One objective for a model. A subclass adds the steps: ``training_step``, ``validation_step``, ...

    The optimizer sees the trainable parameters of the whole task, so a subclass may add modules of its own. Whatever
    a task owns (weights, their average, counters) is in its state dict, hence in the checkpoint.

    Gradient clipping, precision and accumulation are the trainer's: ``--trainer.gradient_clip_val``,
    ``--trainer.precision``, ``--trainer.accumulate_grad_batches``. A strategy that shards (FSDP2) does so in
    ``configure_model``; a subclass that overrides it calls ``super().configure_model()`` last, so that the average is
    made of the shards.

    Args:
        model: What is trained.
        optim: Settings of AdamW.
        schedule: Course of the learning rate.
        ema: Decay of an average of the weights, which is then used to validate, test and predict; None for no average.
        initial: Fills the model before a training that doesn't go on from a checkpoint; see :class:`Initial`.
        adapt: Which weights of the model are trained; all if None.

    Attributes:
        monitor, mode: The logged quantity by which the best checkpoint is chosen, and whether "min" or "max" is best.
        resumes: Whether the training goes on from a checkpoint of its own (set by the command line).
    """

    monitor = "val/loss"
    mode = "min"

    def __init__(
        self,
        model: nn.Module,
        optim: Optim = Optim(),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__()
        if ema is not None and not 0 <= ema < 1:
            raise InputError(f"ema {ema}: the decay of the weight average must be in [0, 1)")
        self.model = model
        self.optim = optim
        self.schedule = schedule
        self.decay = ema
        self.ema: EMA | None = None
        self.initial = initial
        self.adapt = adapt
        self.resumes = False
        self._adapted = False

    def setup(self, stage: str) -> None:
        """Fill the model with what the training begins with."""
        if stage == "fit" and self.initial is not None and not self.resumes:
            self.initial(self.model)

    def configure_model(self) -> None:
        """Adapt the model, and make the average, once it has its final (perhaps sharded) parameters."""
        if self.adapt is not None and not self._adapted:
            self.adapt(self.model)
            self._adapted = True
        if self.decay is not None and self.ema is None:
            self.ema = EMA(self.model, self.decay)

    def configure_optimizers(self) -> Any:
        """AdamW and a schedule that moves with every optimizer step."""
        # float16 needs a scaler of gradients, which only unfused optimizers let one clip
        optimizer = self.optim.build(self, fused=self.trainer.precision != "16-mixed")
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise InputError("the schedule needs an end: give --trainer.max_epochs or --trainer.max_steps")
        factor: Callable[[int], float] = lambda step: self.schedule.factor(step, int(total))  # noqa: E731
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by PyTorch's own functions, which know sharded parameters too.

        Lightning's would refuse any fused optimizer in mixed precision, and clipping by norm with FSDP.
        """
        if not gradient_clip_val:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if gradient_clip_algorithm == "value":
            clip_grad_value_(parameters, gradient_clip_val)
        else:
            clip_grad_norm_(parameters, gradient_clip_val)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step, then move the average."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.ema is not None:
            self.ema.update(self.model, self.trainer.global_step)

    def on_train_start(self) -> None:
        """Begin the average with the weights that training begins with: they may have come after it was made."""
        if self.ema is not None and self.trainer.global_step == 0:
            self.ema.reset(self.model)

    def on_validation_start(self) -> None:
        """Evaluate the average."""
        self._swap_in()

    def on_validation_end(self) -> None:
        """Return to the weights in training."""
        self._swap_out()

    def on_test_start(self) -> None:
        """Evaluate the average."""
        self._swap_in()

    def on_test_end(self) -> None:
        """Return to the weights in training."""
        self._swap_out()

    def on_predict_start(self) -> None:
        """Predict with the average."""
        self._swap_in()

    def on_predict_end(self) -> None:
        """Return to the weights in training."""
        self._swap_out()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the weights in training also while the average is swapped in: callbacks save during validation."""
        if self.ema is not None:
            held = self.ema.held(self.model)
            checkpoint["state_dict"].update({f"model.{name}": weight for name, weight in held.items()})

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; all of them must fit.

        Raises:
            InputError: If one is missing, superfluous or of another shape.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            raise InputError(f"the checkpoint doesn't fit this model: {_shorten(str(error))}") from error

    def finish(self) -> None:
        """Turn the model into what is used after a training: the average of the weights, adapters merged."""
        self._swap_in()
        if self.adapt is not None and self._adapted:
            self.adapt.merge(self.model)

    def prediction_writer(self, folder: Path) -> Callback | None:
        """What writes the results of ``predict`` into a folder; None for a task that has nothing to predict."""
        return None

    def _swap_in(self) -> None:
        if self.ema is not None:
            self.ema.swap_in(self.model)

    def _swap_out(self) -> None:
        if self.ema is not None:
            self.ema.swap_out(self.model)


def _shorten(message: str, most: int = 600) -> str:
    """PyTorch's long list of mismatches as one line that ends after about ``most`` characters."""
    line = re.sub(r"\s+", " ", message.partition("\n")[2] or message).strip()
    return line if len(line) <= most else f"{line[:most]} ..."
