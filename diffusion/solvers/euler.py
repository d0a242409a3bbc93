"""Euler's method along a flow: order 1."""

import torch
from torch import Tensor

from diffusion.process import Flow

from .solver import Denoise, Draw, Stepwise, checked

__all__ = ["Euler", "marks"]


class Euler(Stepwise):
    """Follows the velocity at the beginning of each step.

    Args:
        process: what the model was trained on; its shift moves the steps too.
        steps: evenly apart before the shift.

    Raises:
        InputError: if there are fewer than 1 steps.
    """

    process: Flow

    def __init__(self, process: Flow, steps: int) -> None:
        super().__init__(process, marks(process, steps))

    def step(self, denoise: Denoise, x: Tensor, number: int, noise: Draw) -> tuple[Tensor, Tensor]:
        """See :class:`Stepwise`."""
        here, there = self.marks[number : number + 2]
        output = self.ask(denoise, x, here)
        clean = self.process.clean(output, x, torch.tensor(here, dtype=torch.float64))
        return x + (there - here) / self.process.scale * output, clean


def marks(process: Flow, steps: int) -> list[float]:
    """Return the times of steps + 1 levels from noise to data, evenly apart before the shift."""
    s = torch.linspace(1, 0, checked(steps) + 1, dtype=torch.float64)
    return process.at(process.shifted(s)).tolist()
