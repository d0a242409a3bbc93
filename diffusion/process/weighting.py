"""How much each time counts in the loss of a Gaussian process."""

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor

from core.errors import InputError

__all__ = ["MinSNR", "Predicts", "Weighting"]

Predicts = Literal["epsilon", "x0", "v"]


class Weighting(ABC):
    """Weights of the squared error."""

    @abstractmethod
    def __call__(self, snr: Tensor, predicts: Predicts) -> Tensor:
        """Turn ratios of signal to noise (B,), variance over variance, into weights (B,)."""


class MinSNR(Weighting):
    """Errors of clean data count by the signal-to-noise ratio, at most `gamma` (Hang et al. 2023, arXiv:2303.09556).

    Args:
        gamma: the most.

    Raises:
        InputError: if gamma isn't positive.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise InputError(f"min-SNR with gamma {gamma}: expected a number above 0 (5 is usual)")
        self.gamma = gamma

    def __call__(self, snr: Tensor, predicts: Predicts) -> Tensor:
        """See :class:`Weighting`."""
        cut = snr.clamp(max=self.gamma)
        # the same error, as one of x0, of epsilon, of v: their squares are 1 : snr : snr + 1
        return {"x0": cut, "epsilon": cut / snr, "v": cut / (snr + 1)}[predicts]
