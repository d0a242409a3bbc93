"""Classification by the nearest neighbours among labelled features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import InputError

__all__ = ["knn"]


@torch.no_grad()
def knn(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    classes: int,
    k: int = 20,
    temperature: float | None = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Return the votes (N, classes) of the k nearest neighbours by cosine; the class with most votes is the answer.

    A neighbour of similarity s has exp(s / temperature) votes (Wu et al. 2018, arXiv:1805.01978, section 3.4; the
    protocol of DINO, arXiv:2104.14294).

    Args:
        train_features: (M, D).
        train_labels: (M,) int64.
        features: (N, D).
        classes: number of classes.
        k: how many neighbours vote; all of them where there are fewer.
        temperature: of the votes; None for one vote each.
        chunk: features that are compared at once; it bounds the memory and changes nothing else.

    Raises:
        InputError: if k, the temperature or the labels can't be used.
    """
    if k < 1 or (temperature is not None and temperature <= 0):
        raise InputError(f"k {k} must be at least 1, and temperature {temperature} positive or null")
    if not len(train_labels) or int(train_labels.min()) < 0 or int(train_labels.max()) >= classes:
        raise InputError(f"neighbours need labels in 0..{classes - 1}, and at least one of them")
    bank = F.normalize(train_features, dim=1).T.contiguous()  # (D, M)
    votes = []
    for part in F.normalize(features, dim=1).split(chunk):
        near, where = (part @ bank).topk(min(k, bank.shape[1]), dim=1)  # (n, M) -> (n, k)
        weights = torch.ones_like(near) if temperature is None else (near / temperature).exp()
        votes.append(near.new_zeros(len(part), classes).scatter_add_(1, train_labels[where], weights))
    return torch.cat(votes) if votes else features.new_zeros(0, classes)
