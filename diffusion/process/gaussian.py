"""Gaussian diffusion in discrete steps: DDPM, with fixed or learned variance.

Sources: Ho et al. 2020 (arXiv:2006.11239); Nichol and Dhariwal 2021, improved DDPM (arXiv:2102.09672); Salimans and Ho
2022 (arXiv:2202.00512) for v.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from core.errors import InputError

from .betas import Schedule, betas
from .bound import decoder_bits, kl_bits
from .process import Process, exact, over
from .weighting import Predicts, Weighting

__all__ = ["Gaussian", "Normal", "Variance"]

Variance = Literal["small", "large", "learned"]


class Normal(NamedTuple):
    """A normal distribution without covariances: mean (B, C, H, W), natural logarithm of the variance broadcasts."""

    mean: Tensor
    log_variance: Tensor


class Gaussian(Process):
    """Data that drown in noise in `steps` steps; time runs from 0 (the first noise) to steps - 1, -1 is clean.

    Times between two steps have the noise-to-signal ratio that lies between theirs.

    Args:
        steps: of training.
        schedule: ``"linear"``, ``"cosine"`` or ``"scaled_linear"``: see :func:`betas`; or the variances of the steps.
        predicts: what the model does: the noise, clean data, or v.
        variance: of a step back: that of the posterior (``"small"``), that of the step (``"large"``), or between both
            where the model says, in C more channels (``"learned"``), which trains the hybrid loss.
        weighting: of the squared error; None: all times alike.

    Raises:
        InputError: if a word isn't one of those above, or the variances aren't `steps` numbers between 0 and 1.
    """

    end = -1.0

    def __init__(
        self,
        steps: int = 1000,
        schedule: Schedule | Sequence[float] = "linear",
        predicts: Predicts = "epsilon",
        variance: Variance = "small",
        weighting: Weighting | None = None,
    ) -> None:
        if predicts not in ("epsilon", "x0", "v"):
            raise InputError(f"a process that predicts {predicts!r}: expected epsilon, x0 or v")
        if variance not in ("small", "large", "learned"):
            raise InputError(f"variance {variance!r} of a process: expected small, large or learned")
        self.steps, self.schedule, self.predicts, self.variance = steps, schedule, predicts, variance
        self.weighting = weighting
        self.betas = betas(schedule, steps) if isinstance(schedule, str) else _given(schedule, steps)
        bar = (1 - self.betas).cumprod(0)
        ratio = ((1 - bar) / bar).sqrt()  # of noise to signal
        self._ratios = torch.cat([ratio.new_zeros(1), ratio])  # the first is that of time -1

    def times(self, draws: Tensor) -> Tensor:
        """See :class:`Process`."""
        return (draws * self.steps).floor().clamp(max=self.steps - 1)

    def ratio(self, t: Tensor) -> Tensor:
        """Return noise over signal at times t in -1 .. steps - 1, of t's shape, in float64."""
        t = exact(t) + 1
        table = self._ratios.to(device=t.device, dtype=t.dtype)
        before, after = table[t.floor().long()], table[t.ceil().long()]
        return torch.lerp(before, after, t.frac())

    def level(self, t: Tensor) -> Tensor:
        """See :class:`Process`."""
        return (exact(t) + 1) / self.steps

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Process`."""
        ratio = self.ratio(t)
        signal = (1 + ratio.square()).rsqrt()
        return signal, ratio * signal

    def split(self, output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Part a model's output (B, C or 2 C, H, W) into its prediction and what it says of the variance, or None.

        Raises:
            InputError: if the channels don't fit to x_t (B, C, H, W) and the kind of variance.
        """
        channels, output = x_t.shape[1], output.to(x_t.dtype)
        if output.shape[1] == 2 * channels:
            return output[:, :channels], output[:, channels:]
        if output.shape[1] != channels or self.variance == "learned":
            expected = 2 * channels if self.variance == "learned" else f"{channels} or {2 * channels}"
            raise InputError(f"the model has {output.shape[1]} channels of output: expected {expected}")
        return output, None

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the model should predict, (B, C, H, W)."""
        if self.predicts == "epsilon":
            return noise
        if self.predicts == "x0":
            return x0
        signal, sigma = (over(level, x0) for level in self.levels(t))
        return signal * noise - sigma * x0

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See :class:`Process`."""
        found, _ = self.split(output, x_t)
        if self.predicts == "x0":
            return found
        if self.predicts == "epsilon":
            ratio = self.ratio(t)
            return over((1 + ratio.square()).sqrt(), x_t) * x_t - over(ratio, x_t) * found
        signal, sigma = (over(level, x_t) for level in self.levels(t))
        return signal * x_t - sigma * found

    def noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See :class:`Process`."""
        found, _ = self.split(output, x_t)
        if self.predicts == "epsilon":
            return found
        signal, sigma = self.levels(t)
        if self.predicts == "x0":
            return (x_t - over(signal, x_t) * found) / over(sigma, x_t)
        return over(sigma, x_t) * x_t + over(signal, x_t) * found

    def posterior(self, x0: Tensor, x_t: Tensor, t: Tensor, before: Tensor) -> Normal:
        """Return where x was at the earlier times `before`, given what it began as and is at t.

        At -1 the variance is 0; its logarithm is that of the first step that has one, as in improved DDPM.
        """
        beta, kept, share, log_small = self._step(t, before)
        signal, _ = self.levels(before)
        mean = over(signal * beta / share, x_t) * x0 + over(kept, x_t) * x_t
        return Normal(mean, over(log_small, x_t))

    def back(self, x0: Tensor, said: Tensor | None, x_t: Tensor, t: Tensor, before: Tensor) -> Normal:
        """Return the model's step from t back to `before`.

        Args:
            x0: (B, C, H, W) clean data that the model speaks of, clipped or not.
            said: (B, C, H, W) in [-1, 1] from the smallest to the largest variance; None if it isn't learned.
            x_t: (B, C, H, W).
            t: (B,) or ().
            before: (B,) or (), earlier.
        """
        mean, small = self.posterior(x0, x_t, t, before)
        if self.variance == "small":
            return Normal(mean, small)
        beta, *_ = self._step(t, before)
        if self.variance == "large":
            # the reconstruction from the first step has no use for a variance of beta, which is tiny there
            return Normal(mean, torch.where(over(before, x_t) < 0, small, over(beta.log(), x_t)))
        assert said is not None
        return Normal(mean, small + (said + 1) / 2 * (over(beta.log(), x_t) - small))

    def loss(
        self, output: Tensor, x0: Tensor, x_t: Tensor, noise: Tensor, t: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`Process`: mean squared error; with learned variance, plus a thousandth of the bound in bits."""
        found, said = self.split(output, x_t)
        error = (found - self.target(x0, noise, t)).square().flatten(1).mean(1)
        parts = {"mse": error}
        if self.weighting is not None:
            error = error * self.weighting(self.ratio(t).square().reciprocal(), self.predicts).to(error.dtype)
        if self.variance != "learned":
            return error, parts
        assert said is not None
        # the bound trains the variance alone: the mean has the squared error
        bits = self.bits(torch.cat([found.detach(), said], 1), x0, x_t, t)
        return error + bits * (self.steps / 1000), {**parts, "bits": bits}

    def bits(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the terms (B,) of the variational bound at the times t, in bits per number."""
        _, said = self.split(output, x_t)
        model = self.back(self.clean(output, x_t, t), said, x_t, t, t - 1)
        true = self.posterior(x0, x_t, t, t - 1)
        return torch.where(t < 1, decoder_bits(x0, *model), kl_bits(*true, *model))

    def prior_bits(self, x0: Tensor) -> Tensor:
        """Return the bits (B,) per number by which data (B, C, H, W) at the last time still differ from noise."""
        signal, sigma = self.levels(torch.tensor(self.steps - 1.0))
        zero = x0.new_zeros(())
        return kl_bits(over(signal, x0) * x0, over(2 * sigma.log(), x0), zero, zero)

    def _step(self, t: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the step between two times: its variance beta, the share of x_t in the posterior's mean, the variance of
        the noise at t, the logarithm of the posterior's variance."""
        there, here = self.ratio(before).square(), self.ratio(t).square()
        beta = (here - there) / (1 + here)
        share = here / (1 + here)
        earlier = there / (1 + there)
        kept = (1 - beta).sqrt() * earlier / share
        first = self._variance(*(self._ratios[i].square().to(here) for i in (1, 2)))
        small = torch.where(before < 0, first, self._variance(there, here))
        return beta, kept, share, small.log()

    @staticmethod
    def _variance(there: Tensor, here: Tensor) -> Tensor:
        """The variance of the posterior between two squared ratios of noise to signal."""
        beta = (here - there) / (1 + here)
        return beta * (there / (1 + there)) / (here / (1 + here))


def _given(variances: Sequence[float], steps: int) -> Tensor:
    found = torch.tensor(list(variances), dtype=torch.float64)
    if len(found) != steps or steps < 2 or not ((found > 0) & (found < 1)).all():
        raise InputError(f"{len(found)} variances of steps: expected {steps}, 2 or more, all between 0 and 1")
    return found
