"""How often a flow is trained at each level of noise."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["LogitNormal", "Times", "Uniform"]


class Times(ABC):
    """Turns uniform draws into levels of noise."""

    @abstractmethod
    def __call__(self, draws: Tensor) -> Tensor:
        """Turn draws (B,) in [0, 1) into levels (B,) in [0, 1]: 0 = data, 1 = noise."""


class Uniform(Times):
    """Every level as often as any other."""

    def __call__(self, draws: Tensor) -> Tensor:
        """See :class:`Times`."""
        return draws


class LogitNormal(Times):
    """Middle levels more often: the logit of the level is normal (Esser et al. 2024, arXiv:2403.03206, section 3.1).

    Args:
        mean: of the logit; above 0 = more noise.
        std: of the logit.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        self.mean, self.std = mean, std

    def __call__(self, draws: Tensor) -> Tensor:
        """See :class:`Times`."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(draws))
