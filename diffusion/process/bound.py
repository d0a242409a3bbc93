"""Terms of the variational bound of a Gaussian process, in bits per number.

Source: Ho et al. 2020 (arXiv:2006.11239), section 3.3; Nichol and Dhariwal 2021 (arXiv:2102.09672), section 3.1.
"""

import math

import torch
from torch import Tensor

__all__ = ["decoder_bits", "kl_bits"]

LEAST = 1e-12  # probability


def kl_bits(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Return the divergence of normal N(mean, ...) from N(other mean, ...), in bits, mean over all but the rows: (B,).

    Args:
        mean: (B, C, H, W), as are the others, or of shapes that broadcast to it.
        log_variance: natural logarithm.
    """
    nats = 0.5 * (
        other_log_variance
        - log_variance
        - 1
        + (log_variance - other_log_variance).exp()
        + (mean - other_mean).square() * (-other_log_variance).exp()
    )
    return nats.expand(mean.shape).flatten(1).mean(1) / math.log(2)


def decoder_bits(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the bits that 8-bit values in [-1, 1] cost under a normal distribution, mean over all but the rows: (B,).

    The normal is summed over the 2 / 255 around a value; what lies beyond the ends counts for -1 and 1.

    Args:
        x0: (B, C, H, W), as are the others.
        mean: of the normal.
        log_variance: natural logarithm.
    """
    deviation = (0.5 * log_variance).exp()
    above = _cumulated((x0 - mean + 1 / 255) / deviation)
    below = _cumulated((x0 - mean - 1 / 255) / deviation)
    probability = torch.where(x0 < -0.999, above, torch.where(x0 > 0.999, 1 - below, above - below))
    return -probability.clamp(min=LEAST).log().flatten(1).mean(1) / math.log(2)


def _cumulated(x: Tensor) -> Tensor:
    return torch.special.ndtr(x)
