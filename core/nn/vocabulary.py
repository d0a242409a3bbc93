"""The loss of predicting tokens of a large vocabulary, without the logits of what doesn't count."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["token_log_probs", "token_losses"]


def token_losses(
    states: Tensor, head: Tensor, labels: Tensor, ignored: int, smoothing: float = 0.0, chunk: int = 1024
) -> tuple[Tensor, int]:
    """Sum of the cross-entropies of the labels that count, and how many these are.

    The logits of what is ignored are never computed. Where there are more than ``chunk`` others, no more than so many
    exist at a time: the backward pass computes them again.

    Args:
        states: (B, L, D), what the head makes logits of.
        head: (V, D), its weight.
        labels: (B, L) int64, the tokens that should follow.
        ignored: the label that counts for nothing.
        smoothing: share of the target that is spread over the whole vocabulary (arXiv:1512.00567).
        chunk: tokens whose logits exist at a time.
    """
    counted = labels != ignored
    kept, wanted = states[counted], labels[counted]  # (B, L, D) -> (n, D)
    if not len(wanted):
        return states.sum() * 0, 0
    if len(wanted) <= chunk:
        return _summed(kept, head, wanted, smoothing), len(wanted)
    parts = [
        checkpoint(_summed, some, head, these, smoothing, use_reentrant=False)
        for some, these in zip(kept.split(chunk), wanted.split(chunk), strict=True)
    ]
    return torch.stack(parts).sum(), len(wanted)


def token_log_probs(states: Tensor, head: Tensor, labels: Tensor, ignored: int, chunk: int = 1024) -> Tensor:
    """Log-probability of each label that counts, (n,) in reading order; float32 at least.

    The logits of what is ignored are never computed, and no more than ``chunk`` rows of the others exist at a time.

    Args:
        states, head, labels, ignored, chunk: see :func:`token_losses`.
    """
    counted = labels != ignored
    kept, wanted = states[counted], labels[counted]  # (B, L, D) -> (n, D)
    if len(wanted) <= chunk:
        return _each(kept, head, wanted)
    parts = [
        checkpoint(_each, some, head, these, use_reentrant=False)
        for some, these in zip(kept.split(chunk), wanted.split(chunk), strict=True)
    ]
    return torch.cat(parts)


def _each(states: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    logits = F.linear(states, head)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(logits, labels, reduction="none")


def _summed(states: Tensor, head: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    logits = F.linear(states, head)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
