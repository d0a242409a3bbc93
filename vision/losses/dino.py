"""The loss of DINO (Caron et al. 2021, arXiv:2104.14294, equations 2 and 3)."""

import torch
from torch import Tensor, nn

from .centre import Centring
from .cross_entropy import soft_cross_entropy

__all__ = ["DINOLoss"]


class DINOLoss(nn.Module):
    """Cross-entropy between the teacher's view of each global crop and the student's of every other crop.

    The sum over pairs of crops is taken inside the logarithm's product: for each crop of the student there is one
    target, the sum of the teacher's over the other crops.

    Args:
        centring: makes targets of the teacher's logits; updated after each loss.
        temperature: of the student.
    """

    def __init__(self, centring: Centring, temperature: float = 0.1) -> None:
        super().__init__()
        self.centring = centring
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the mean over pairs of different crops and over images.

        Args:
            student: logits (S, B, K) of all crops, the global ones first.
            teacher: logits (T, B, K) of the global crops, in the same order.
            temperature: of the teacher.

        Raises:
            ValueError: if there is no pair of different crops.
        """
        crops, views, batch = len(student), len(teacher), student.shape[1]
        pairs = crops * views - min(crops, views)
        if pairs == 0:
            raise ValueError("the loss of DINO compares different crops of an image, so it needs at least two")
        targets = self.centring(teacher.flatten(0, 1), temperature).unflatten(0, (views, batch))
        total = targets.sum(0)
        losses = [soft_cross_entropy(student[:views], (total - targets)[:crops], self.temperature)]
        if crops > views:
            losses.append(soft_cross_entropy(student[views:], total, self.temperature))
        self.centring.update(teacher.flatten(0, 1))
        return torch.stack([loss.sum() for loss in losses]).sum() / (pairs * batch)
