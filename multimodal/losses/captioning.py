"""The captioning loss (Yu et al. 2022, arXiv:2205.01917): the next token of a text, given the image."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["captioning"]


def captioning(states: Tensor, head: Tensor, labels: Tensor, pad: int = 0, chunk: int = 1024) -> Tensor:
    """Mean cross-entropy of the labels that aren't padding; 0 if all of them are.

    Equal to open_clip's ``CoCaLoss`` (its ``caption_loss`` with a weight of 1), but the logits of padding are never
    computed, and those of at most ``chunk`` tokens are kept: the backward pass computes them again.

    Args:
        states: (B, L, D), what the head makes logits of.
        head: (V, D), its weight.
        labels: (B, L) int64, the tokens that should follow.
        pad: the label that counts for nothing.
        chunk: tokens whose logits exist at a time.
    """
    counted = labels != pad
    kept, wanted = states[counted], labels[counted]  # (B, L, D) -> (n, D)
    if not len(wanted):
        return states.sum() * 0
    parts = [
        checkpoint(_summed, some, head, these, use_reentrant=False)
        for some, these in zip(kept.split(chunk), wanted.split(chunk), strict=True)
    ]
    return torch.stack(parts).sum() / len(wanted)


def _summed(states: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    logits = F.linear(states, head)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, reduction="sum")
