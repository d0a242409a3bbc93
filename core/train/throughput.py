"""How fast a training is, what it waits for, and how much of the machine it uses."""

import importlib.util
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.errors import InputError
from core.nn import Tokens

__all__ = ["Throughput", "count_samples", "peak_matmul"]


class Throughput(Callback):
    """Logs, over the steps since the last time, averages under ``throughput/``.

    ``samples_per_second`` over all processes; ``step_seconds``, the time from one batch to the next; ``wait_share``,
    the share of it between two steps, in which the training waits for data (on a GPU some of its own work is done
    meanwhile, so there this is an upper bound); ``flops_per_step`` of one process, forward and backward, counted once
    in the first step, where a multiplication and an addition are two; ``utilisation`` (model FLOPs utilisation,
    arXiv:2204.02311, appendix B), these over what ``peak`` could have done in the time; ``peak_memory_gb``, of the GPU
    or else of the process, in 10^9 bytes.

    The first step, and what lies between steps in validations and savings, is left out.

    Args:
        every: Steps from one logging to the next; by default the trainer's ``log_every_n_steps``.
        peak: FLOP/s of the device at the training's precision; by default measured by matrix products.
    """

    def __init__(self, every: int | None = None, peak: float | None = None) -> None:
        if (every is not None and every < 1) or (peak is not None and peak <= 0):
            raise InputError(f"every {every} must be at least 1 and peak {peak} positive")
        self.every = every
        self.peak = peak
        self.flops: int | None = None
        self._counter: FlopCounterMode | None = None
        self._ended: float | None = None  # when the step before ended; None if something else has been done since
        self._began = 0.0
        self._gap = 0.0
        self._restart()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the peak."""
        self.flops = None
        self._restart()
        if self.peak is None:
            precision = str(trainer.precision)
            half = torch.bfloat16 if "bf16" in precision else torch.float16
            self.peak = peak_matmul(pl_module.device, half if "16" in precision else torch.float32)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is there, the waiting is over."""
        if self.flops is None:
            self._counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
            self._counter.__enter__()
        self._began = time.perf_counter()
        self._gap = 0.0 if self._ended is None else self._began - self._ended

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and log if it is time."""
        first = self._counter is not None
        every = self.every or max(1, int(trainer.log_every_n_steps))  # type: ignore[attr-defined]
        complete = not first and self._steps + 1 == every
        if first:
            self._stop_counting()
        if first or complete:
            _finish(pl_module.device)
        now = time.perf_counter()
        if not first:
            self._steps += 1
            self._samples += count_samples(batch)
            self._waited += self._gap
            self._seconds += self._gap + now - self._began
        if complete:
            figures = self._figures(pl_module.device, trainer.world_size)
            for logger in trainer.loggers:
                logger.log_metrics(figures, trainer.global_step)
            self._restart()
        self._ended = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The next wait is for more than data."""
        self._ended = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The next wait is for more than data."""
        self._ended = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The next wait is for more than data."""
        self._ended = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Count no further."""
        self._stop_counting()

    def _stop_counting(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.flops, self._counter = self._counter.get_total_flops(), None

    def _restart(self) -> None:
        self._steps = self._samples = 0
        self._waited = self._seconds = 0.0

    def _figures(self, device: torch.device, world: int) -> dict[str, float]:
        seconds = self._seconds / self._steps
        figures = {
            "samples_per_second": world * self._samples / self._seconds,
            "step_seconds": seconds,
            "wait_share": self._waited / self._seconds,
        }
        if self.flops:
            assert self.peak is not None
            figures |= {"flops_per_step": float(self.flops), "utilisation": self.flops / seconds / self.peak}
        memory = _peak_memory(device)
        if memory is not None:
            figures["peak_memory_gb"] = memory / 1e9
        return {f"throughput/{name}": value for name, value in figures.items()}


def count_samples(batch: Any) -> int:
    """How many samples a batch holds.

    The rows of its ``index`` or ``label``, or else the sequences that its ``tokens`` keep apart in a packed row, or
    else the rows of the first tensor in it.
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, Mapping):
        named = next((batch[name] for name in ("index", "label") if isinstance(batch.get(name), Tensor)), None)
        tokens = batch.get("tokens")
        if named is None and isinstance(tokens, Tokens) and tokens.lengths is not None:
            return len(tokens.lengths)
        return count_samples(named if named is not None else list(batch.values()))
    parts = batch if isinstance(batch, list | tuple) else []
    return next((count for count in map(count_samples, parts) if count), 0)


def peak_matmul(device: torch.device, dtype: torch.dtype, tries: int = 5) -> float:
    """FLOP/s of the fastest of some square matrix products: what a device can do at best, at this many threads."""
    size = 4096 if device.type == "cuda" else 1024
    x = torch.ones(size, size, dtype=dtype, device=device)  # nothing random: the run's generators stay as they are
    best = float("inf")
    for _ in range(tries):
        _finish(device)
        began = time.perf_counter()
        x @ x
        _finish(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> float | None:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    if importlib.util.find_spec("resource") is None:  # Windows
        return None
    import resource

    # Linux counts in units of 1024 bytes, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def _attention_flops(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Scores (L x S x d) and their product with the values, for shapes (B, h, L, d) and (B, h, S, d)."""
    (batch, heads, length, width), seen = q, k[2]
    return 2 * batch * heads * length * seen * (width + v[3])


def _attention_backward_flops(grad: Any, q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kw: Any) -> int:
    """Two products for each of the forward pass, and the scores once more."""
    (batch, heads, length, width), seen = q, k[2]
    return 2 * batch * heads * length * seen * (3 * width + 2 * v[3])


# PyTorch's counter knows the GPU's attention kernels only
_CPU_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
