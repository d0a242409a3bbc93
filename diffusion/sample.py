"""From noise to pictures: one sample for each seed, the same whatever batch it is in."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusion.condition import Condition, rows
from diffusion.noise import Noise
from diffusion.original import Original

__all__ = ["Sampler", "Watch", "as_bytes"]

Watch = Callable[[int, Any], None]
"""Told the index of a batch's first sample and the solver's state after each step."""


class Sampler:
    """A model, a solver and guidance.

    Args:
        model: maps (x, t, condition) to what its process predicts, such as :class:`diffusion.dit.DiT`; a fast one may
            have ``prepare(times, condition)``, and is told of each batch.
        solver: of :mod:`diffusion.solvers`.
        guidance: its ``denoiser(model, condition, process)`` is what the solver asks at each step.
        latents: ``encode`` images (B, C, H, W) in [-1, 1] to what is denoised and ``decode`` it back.
        shape: (channels, height, width) of what is denoised.
        device: where the model is.
    """

    def __init__(
        self,
        model: Any,
        solver: Any,
        guidance: Any,
        latents: Any,
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.model, self.solver, self.guidance, self.latents = model, solver, guidance, latents
        self.shape, self.device = shape, torch.device(device)

    def __call__(
        self,
        condition: Condition,
        seeds: Sequence[int],
        batch: int = 8,
        original: Original | None = None,
        watch: Watch = lambda first, state: None,
    ) -> Iterator[Tensor]:
        """Yield one image (H, W, C) uint8 for each seed, as its batch is done.

        Args:
            condition: with a row for each seed; None for a model that takes none.
            seeds: of the noise.
            batch: samples at once; it changes nothing but the order of sums inside matrix products.
            original: the picture to begin from.
            watch: see :data:`Watch`.
        """
        for first in range(0, len(seeds), batch):
            at = slice(first, first + batch)
            yield from as_bytes(self._batch(rows(condition, at), seeds[at], original, partial(watch, first)))

    @torch.inference_mode()
    def _batch(
        self, condition: Condition, seeds: Sequence[int], original: Original | None, watch: Callable[[Any], None]
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1], on the processor."""
        noise = Noise(seeds, self.shape, self.device)
        x, start, constrain = noise(), 0, None
        if original is not None:
            start = self.solver.start(original.strength)
            x, constrain = self._begun(original, x, start)
        models: list[Any] = [self.model, getattr(self.guidance, "weak", None)]
        for model in models:
            if hasattr(model, "prepare"):
                model.prepare(self.solver.times, condition)
        denoise = self.guidance.denoiser(self.model, condition, self.solver.process)
        for state in self.solver(denoise, x, noise, start=start, constrain=constrain):
            x = state.x
            watch(state)
        images = self.latents.decode(x).float().cpu()
        return images if original is None else original.kept(images)

    def _begun(self, original: Original, noise: Tensor, start: int) -> tuple[Tensor, Callable[..., Tensor] | None]:
        """The noised picture (B, C, H, W) of step `start`, and what keeps its unmasked part on its way."""
        encoded = self.latents.encode(original.image[None].to(self.device)).expand_as(noise)
        x = self.solver.noised(encoded, noise, start)
        if original.mask is None:
            return x, None
        anew = original.places(self.shape[1:]).to(self.device)

        # the sample's own first noise: the kept part moves straight to the picture, and a seed still says everything
        def constrain(x: Tensor, t: float) -> Tensor:
            known = self.solver.process.noised(encoded, noise, torch.tensor(t, dtype=torch.float64))
            return torch.where(anew, x, known)

        return x, constrain


def as_bytes(images: Tensor) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] as pictures (B, H, W, C) uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
