"""Ancestral sampling of a Gaussian process (Ho et al. 2020, arXiv:2006.11239, algorithm 2)."""

import torch
from torch import Tensor

from diffusion.process import Gaussian

from .solver import Denoise, Draw, Stepwise
from .spacing import Spacing, spaced

__all__ = ["DDPM"]


class DDPM(Stepwise):
    """Draws each step back from the model's normal distribution; over fewer steps than in training as improved DDPM.

    Args:
        process: what the model was trained on.
        steps: at most those of the process.
        spacing: which of them; see :func:`spaced`.
        clip: where clean data end, on both sides (1 for pixels); None for latents.

    Raises:
        InputError: if there are too many steps, or fewer than 1.
    """

    process: Gaussian

    def __init__(self, process: Gaussian, steps: int, spacing: Spacing = "linspace", clip: float | None = None) -> None:
        super().__init__(process, [*spaced(process.steps, steps, spacing), process.end])
        self.clip = clip

    def step(self, denoise: Denoise, x: Tensor, number: int, noise: Draw) -> tuple[Tensor, Tensor]:
        """See :class:`Stepwise`."""
        here, there = self.marks[number : number + 2]
        t, before = (torch.tensor(mark, dtype=torch.float64) for mark in (here, there))
        output = self.ask(denoise, x, here)
        clean = self.process.clean(output, x, t)
        if self.clip is not None:
            clean = clean.clamp(-self.clip, self.clip)
        _, said = self.process.split(output, x)
        mean, log_variance = self.process.back(clean, said, x, t, before)
        if there == self.process.end:
            return mean, clean
        return mean + (0.5 * log_variance).exp() * noise(), clean
