"""Heun's method along a flow: order 2 (Karras et al. 2022, arXiv:2206.00364, algorithm 1)."""

import torch
from torch import Tensor

from diffusion.process import Flow

from .euler import marks
from .solver import Denoise, Draw, Stepwise

__all__ = ["Heun"]


class Heun(Stepwise):
    """Follows the mean of the velocities at both ends of each step: two questions to the model.

    The last step is Euler's, since models aren't trained on clean data; the order stays 2.

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
        step = (there - here) / self.process.scale
        output = self.ask(denoise, x, here)
        clean = self.process.clean(output, x, torch.tensor(here, dtype=torch.float64))
        ahead = x + step * output
        if there == self.process.end:
            return ahead, clean
        return x + step / 2 * (output + self.ask(denoise, ahead, there)), clean
