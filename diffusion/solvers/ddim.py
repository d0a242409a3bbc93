"""Implicit sampling of a Gaussian process (Song et al. 2020, arXiv:2010.02502)."""

import torch
from torch import Tensor

from core.errors import InputError
from diffusion.process import Gaussian

from .solver import Denoise, Draw, Stepwise
from .spacing import Spacing, spaced

__all__ = ["DDIM"]


class DDIM(Stepwise):
    """Goes straight to where clean data and noise of a model's prediction would be at the next time.

    Args:
        process: what the model was trained on.
        steps: at most those of the process.
        eta: share of the noise that is drawn anew: 0 = none, 1 = as much as DDPM.
        spacing: which of the steps of training; see :func:`spaced`.
        clip: where clean data end, on both sides (1 for pixels); None for latents. The noise is then that which goes
            with the clipped data (``use_clipped_model_output`` of diffusers).

    Raises:
        InputError: if there are too many steps, or fewer than 1, or eta isn't in 0 .. 1.
    """

    process: Gaussian

    def __init__(
        self,
        process: Gaussian,
        steps: int,
        eta: float = 0.0,
        spacing: Spacing = "linspace",
        clip: float | None = None,
    ) -> None:
        if not 0 <= eta <= 1:
            raise InputError(f"eta {eta} of DDIM: expected 0 (nothing random) to 1 (as random as DDPM)")
        super().__init__(process, [*spaced(process.steps, steps, spacing), process.end])
        self.eta, self.clip = eta, clip

    def step(self, denoise: Denoise, x: Tensor, number: int, noise: Draw) -> tuple[Tensor, Tensor]:
        """See :class:`Stepwise`."""
        here, there = self.marks[number : number + 2]
        t, before = (torch.tensor(mark, dtype=torch.float64) for mark in (here, there))
        output = self.ask(denoise, x, here)
        clean, epsilon = self.process.clean(output, x, t), self.process.noise(output, x, t)
        if self.clip is not None:
            clean = clean.clamp(-self.clip, self.clip)
            # the noise that goes with it: with that of unclipped data guided samples drift off
            now, sigma_now = self.process.levels(t)
            epsilon = (x - now * clean) / sigma_now
        signal, sigma = self.process.levels(before)
        if self.eta == 0 or there == self.process.end:
            return signal * clean + sigma * epsilon, clean
        fresh = self.eta * self.process.posterior(clean, x, t, before).log_variance.mul(0.5).exp()
        kept = (sigma.square() - fresh.square()).clamp(min=0).sqrt()
        return signal * clean + kept * epsilon + fresh * noise(), clean
