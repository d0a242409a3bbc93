"""Cross-entropy with soft targets, of which nothing but the logits themselves is kept for the backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["soft_cross_entropy"]


def soft_cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return -sum_k targets_k log softmax(logits / temperature)_k.

    Args:
        logits: (..., K).
        targets: broadcastable to the logits; their sum over K may be any number, and they get no gradient.
        temperature: of the logits.

    Returns:
        (...), in at least float32.
    """
    loss = _SoftCrossEntropy.apply(logits, targets, temperature)
    assert isinstance(loss, Tensor)
    return loss


class _SoftCrossEntropy(torch.autograd.Function):
    """Two passes over the logits instead of the seven of log_softmax, product and sum with their gradients."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
        z = logits.to(targets.dtype) / temperature
        mass = targets.sum(-1)
        norm = z.logsumexp(-1)
        ctx.save_for_backward(logits, targets, mass, norm)
        ctx.temperature = temperature
        return mass * norm - z.mul_(targets).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        logits, targets, mass, norm = ctx.saved_tensors
        grad = (logits.to(targets.dtype) / ctx.temperature).sub_(norm[..., None]).exp_()
        grad.mul_(mass[..., None]).sub_(targets).mul_((grads[0] / ctx.temperature)[..., None])
        return grad.to(logits.dtype), None, None
