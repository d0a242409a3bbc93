"""Knowledge distillation: what a student is told of its teacher's logits or features."""

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor

from core.errors import InputError

__all__ = ["Cosine", "Distillation", "Hard", "MeanSquare", "Similarity", "SmoothL1", "Soft"]


class Distillation(ABC):
    """A loss between the logits of a student and of a teacher."""

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss, a scalar, of two (B, classes)."""


class Hard(Distillation):
    """Cross-entropy with the teacher's first choice (DeiT, arXiv:2012.12877, equation 3)."""

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over the batch."""
        return F.cross_entropy(student, teacher.argmax(1))


class Soft(Distillation):
    """KL divergence of softened probabilities (Hinton et al. 2015, arXiv:1503.02531), as in DeiT's ``losses.py``.

    It is the mean over batch and classes times the temperature squared; Hinton's is the sum over the classes.

    Args:
        temperature: Logits of both are divided by it.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise InputError(f"the temperature {temperature} of a distillation must be positive")
        self.temperature = temperature

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return T^2 * mean(p_teacher * (log p_teacher - log p_student))."""
        told = F.log_softmax(teacher / self.temperature, 1)
        said = F.log_softmax(student / self.temperature, 1)
        return F.kl_div(said, told, reduction="sum", log_target=True) / said.numel() * self.temperature**2


class Similarity(ABC):
    """A loss between features (..., D) of a student, projected to the teacher's width, and of a teacher."""

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over all tokens, a scalar."""


class Cosine(Similarity):
    """1 - the cosine of the angle between both."""

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over all tokens."""
        return 1 - F.cosine_similarity(student, teacher, -1).mean()


class SmoothL1(Similarity):
    """Smooth L1 between the student and the teacher whose features are normalised (FD, arXiv:2205.14141).

    Args:
        beta: Difference at which it passes from squared to absolute.
    """

    def __init__(self, beta: float = 2.0) -> None:
        if beta <= 0:
            raise InputError(f"beta {beta} of a smooth L1 loss must be positive")
        self.beta = beta

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over all values; the teacher's tokens have mean 0 and variance 1."""
        return F.smooth_l1_loss(student, F.layer_norm(teacher, teacher.shape[-1:]), beta=self.beta)


class MeanSquare(Similarity):
    """The mean squared difference (FitNets, arXiv:1412.6550)."""

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over all values."""
        return F.mse_loss(student, teacher)
