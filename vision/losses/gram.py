"""Gram anchoring (DINOv3, arXiv:2508.10104, section 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .centre import full_precision

__all__ = ["GramLoss"]


class GramLoss(nn.Module):
    """Keeps the similarities between the patches of an image as an earlier teacher saw them.

    The squared Frobenius norm of the difference of the two Gram matrices, divided by the number of their entries so
    that its size does not depend on that of the image.
    """

    def forward(self, student: Tensor, anchor: Tensor) -> Tensor:
        """Return the mean squared difference of the cosine similarities.

        Args:
            student: patches (B, P, D).
            anchor: patches (B, P, E) of the same images from the Gram teacher; they get no gradient.
        """
        with torch.autocast(student.device.type, enabled=False):
            one, other = (F.normalize(full_precision(x), dim=-1) for x in (student, anchor.detach()))
            return F.mse_loss(one @ one.transpose(1, 2), other @ other.transpose(1, 2))
