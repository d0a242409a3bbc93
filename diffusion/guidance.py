"""Guidance: at each step the model is asked twice, and the answer moves away from the worse one.

Sources: Ho and Salimans 2022 (arXiv:2207.12598); Kynkäänniemi et al. 2024 (arXiv:2404.07724), the interval; Lin et al.
2023 (arXiv:2305.08891), section 3.4, the rescaling; Karras et al. 2024 (arXiv:2406.02507), autoguidance;
facebookresearch/DiT ``models.py``, the first channels only.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import InputError
from diffusion.condition import Condition, joined
from diffusion.process import Process
from diffusion.solvers import Denoise

__all__ = ["AutoGuidance", "Guidance", "Guide"]


class Guide(ABC):
    """Two answers for x, and how they become one.

    Args:
        scale: 1 = the better answer alone, above = away from the worse.
        interval: levels of noise between which there is guidance, 0 = data to 1 = noise, both included; elsewhere the
            better answer is taken and the worse isn't asked for.
        rescale: share, 0 .. 1, of the answer that gets the standard deviation of the better one back, in each sample.
        channels: how many of x's are guided, first ones first; None: all. What the model says of the variance is the
            better answer's.

    Raises:
        InputError: if a number is out of range.
    """

    def __init__(
        self,
        scale: float = 4.0,
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
        channels: int | None = None,
    ) -> None:
        if not 0 <= scale < float("inf"):
            raise InputError(f"guidance {scale}: expected 0 or more (1 = none, 4 is usual)")
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise InputError(f"guidance in the interval {tuple(interval)}: expected 0 <= first <= last <= 1")
        if not 0 <= rescale <= 1:
            raise InputError(f"guidance rescaled by {rescale}: expected 0 (not at all) to 1")
        if channels is not None and channels < 1:
            raise InputError(f"guidance of {channels} channels: expected 1 or more")
        self.scale, self.interval, self.rescale, self.channels = scale, (interval[0], interval[1]), rescale, channels

    @abstractmethod
    def denoiser(self, model: nn.Module, condition: Condition, process: Process) -> Denoise:
        """Return what a solver asks: a function of x (B, C, H, W) and t ().

        Args:
            model: maps (x, t (B,), condition) to what the process predicts.
            condition: of B rows; None if the model takes none.
            process: what the model was trained on.
        """

    def inside(self, t: Tensor, process: Process) -> bool:
        """Say whether there is guidance at the time t ()."""
        if self.scale == 1:
            return False
        if self.interval == (0, 1):
            return True  # without waiting for t to come from the device
        level = float(process.level(t.cpu()))
        return self.interval[0] - 1e-6 <= level <= self.interval[1] + 1e-6

    def mixed(self, better: Tensor, worse: Tensor, channels: int) -> Tensor:
        """Return one answer of two, (B, C or more, H, W), for x of so many channels."""
        count = channels if self.channels is None else min(self.channels, channels)
        first, rest = better[:, :count], better[:, count:]
        guided = worse[:, :count] + self.scale * (first - worse[:, :count])
        if self.rescale:
            axes = tuple(range(1, first.ndim))
            ratio = first.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
            guided = guided * (self.rescale * ratio + 1 - self.rescale)
        return torch.cat([guided, rest], 1)


class Guidance(Guide):
    """Away from what the model says without its condition: classifier-free guidance, both in one call of 2 B rows.

    Args: see :class:`Guide`. A model without condition isn't guided.
    """

    def denoiser(self, model: Any, condition: Condition, process: Process) -> Denoise:
        """See :class:`Guide`."""
        if condition is None:
            return _asked(model, condition)
        alone, both = _asked(model, condition), _asked(model, joined([condition, model.unconditional(condition)]))

        def denoise(x: Tensor, t: Tensor, /) -> Tensor:
            if not self.inside(t, process):
                return alone(x, t)
            better, worse = both(torch.cat([x, x]), t).chunk(2)
            return self.mixed(better, worse, x.shape[1])

        return denoise


class AutoGuidance(Guide):
    """Away from what a weaker model says, smaller or trained for less time, under the same condition.

    Args:
        weak: of the same process.
        others: see :class:`Guide`.
    """

    def __init__(
        self,
        weak: nn.Module,
        scale: float = 2.0,
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
        channels: int | None = None,
    ) -> None:
        super().__init__(scale, interval, rescale, channels)
        self.weak = weak

    def denoiser(self, model: nn.Module, condition: Condition, process: Process) -> Denoise:
        """See :class:`Guide`."""
        strong, weak = _asked(model, condition), _asked(self.weak, condition)

        def denoise(x: Tensor, t: Tensor, /) -> Tensor:
            if not self.inside(t, process):
                return strong(x, t)
            return self.mixed(strong(x, t), weak(x, t), x.shape[1])

        return denoise


def _asked(model: nn.Module, condition: Condition) -> Denoise:
    """The model under a condition, with the time for every row."""

    def denoise(x: Tensor, t: Tensor, /) -> Tensor:
        output: Tensor = model(x, t.expand(len(x)), condition)
        return output

    return denoise
