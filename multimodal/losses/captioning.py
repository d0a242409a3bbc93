"""The captioning loss (Yu et al. 2022, arXiv:2205.01917): the next token of a text, given the image."""

from torch import Tensor

from core.nn import token_losses

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
    total, count = token_losses(states, head, labels, pad, chunk=chunk)
    return total / max(count, 1)
