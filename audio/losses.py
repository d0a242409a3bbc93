"""Knowledge distillation of language: what a student is told of its teacher's next tokens."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["told_divergence"]


def told_divergence(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """KL divergence of the student's from the teacher's softened probabilities, times T^2 (Hinton, arXiv:1503.02531).

    Summed over the vocabulary and over the tokens: distil-whisper (arXiv:2311.00430, equation 3) takes the mean over
    the tokens that count.

    Args:
        student, teacher: logits (n, V) of the tokens that count.
        temperature: logits of both are divided by it.
    """
    said = F.log_softmax(student.float() / temperature, -1)
    told = F.log_softmax(teacher.float() / temperature, -1)
    return F.kl_div(said, told, reduction="sum", log_target=True) * temperature**2
