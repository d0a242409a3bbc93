"""The stochastic way along a flow (Ma et al. 2024, SiT, arXiv:2401.08740, section 2.3)."""

import torch
from torch import Tensor

from core.errors import InputError
from diffusion.process import Flow

from .solver import Denoise, Draw, Stepwise, checked

__all__ = ["EulerMaruyama"]


class EulerMaruyama(Stepwise):
    """Removes more noise than the flow does in each step, and adds as much anew: order 1 in distribution.

    The rate of both is `churn` times the level of noise in x. As in the release of SiT, the last step is taken from a
    level above zero, along the drift alone.

    Args:
        process: what the model was trained on; its shift moves the steps too.
        steps: evenly apart before the shift, but for the last.
        last: level of noise, 0 .. 1, from which the last step goes to the data.
        churn: 0 = as Euler; 1 as in SiT.

    Raises:
        InputError: if there are fewer than 2 steps, `last` isn't between 0 and 1, or `churn` is negative.
    """

    process: Flow

    def __init__(self, process: Flow, steps: int, last: float = 0.04, churn: float = 1.0) -> None:
        if steps == 1:
            raise InputError("1 step: expected 2 or more, since nothing is random in the last")
        if not 0 < last < 1 or churn < 0:
            raise InputError(f"last {last} and churn {churn}: expected a level between 0 and 1, and 0 or more")
        unshifted = last / (process.shift - (process.shift - 1) * last)
        s = process.shifted(torch.linspace(1, unshifted, checked(steps), dtype=torch.float64))
        super().__init__(process, [*process.at(s).tolist(), process.end])
        self.churn = churn

    def step(self, denoise: Denoise, x: Tensor, number: int, noise: Draw) -> tuple[Tensor, Tensor]:
        """See :class:`Stepwise`."""
        here, there = self.marks[number : number + 2]
        t = torch.tensor(here, dtype=torch.float64)
        step = (there - here) / self.process.scale
        output = self.ask(denoise, x, here)
        clean, epsilon = self.process.clean(output, x, t), self.process.noise(output, x, t)
        # the score is -epsilon / level: times a rate of churn * level, what follows it is -churn * epsilon
        moved = x + step * output - abs(step) * self.churn * epsilon
        if there == self.process.end:
            return moved, clean
        _, level = self.process.levels(t)
        return moved + (2 * abs(step) * self.churn * level).sqrt() * noise(), clean
