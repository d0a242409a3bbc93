"""The Kozachenko-Leonenko regulariser (Sablayrolles et al. 2018, arXiv:1806.03198), as in DINOv2."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.train.processes import gathered

from .centre import full_precision

__all__ = ["KoLeoLoss"]


class KoLeoLoss(nn.Module):
    """Spreads features on the sphere: minus the mean logarithm of the distance to the nearest neighbour.

    Neighbours are looked for among the rows of all processes.

    Args:
        eps: keeps logarithm and norms finite.
    """

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss of features (B, D), which needs no normalisation.

        Raises:
            ValueError: if there is only one row, which has no neighbour.
        """
        x = F.normalize(gathered(full_precision(x)), dim=-1, eps=self.eps)
        if len(x) < 2:
            raise ValueError("KoLeo needs at least two images in a batch: one has no neighbour")
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            nearest = (x @ x.T).fill_diagonal_(-2).argmax(1)
        distance = F.pairwise_distance(x, x[nearest], eps=self.eps)
        return -(distance + self.eps).log().mean()
