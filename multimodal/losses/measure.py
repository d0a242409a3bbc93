"""The contrastive losses of rows that are all at hand, as a number: for measuring, whatever other processes do."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["measured_loss"]

ROWS = 1024  # of logits that exist at a time


@torch.no_grad()
def measured_loss(image: Tensor, text: Tensor, scale: float, bias: float | None) -> float:
    """The value of `info_nce`, or with a bias that of `siglip`, of one process that has all the rows.

    Args:
        image, text: features (B, D) of unit length, in float32.
        scale, bias: of the logits.
    """
    total = torch.zeros((), dtype=torch.float64)
    by_text = torch.full((len(text),), -torch.inf)
    for start in range(0, len(image), ROWS):
        logits = scale * image[start : start + ROWS] @ text.T
        positive = logits.diagonal(start)
        if bias is None:
            total += (logits.logsumexp(1) - 2 * positive).double().sum()
            by_text = torch.logaddexp(by_text, logits.logsumexp(0))
        else:
            # -log sigmoid(-x) of all, and for the pairs -log sigmoid(x) = -log sigmoid(-x) - x
            total += F.softplus(logits + bias).double().sum() - (positive + bias).double().sum()
    if bias is None:
        total = (total + by_text.double().sum()) / 2
    return float(total) / len(image)
