"""Attention for inference on a processor: bfloat16 matrix products over blocks of queries whose scores stay in cache.

PyTorch's fused attention gains nothing from bfloat16 without AMX, and with a single query (decoding) it loses to plain
products.
"""

import torch
from torch import Tensor

from . import kernels
from .mask import Sight

__all__ = ["blocked"]

QUERIES = 256  # of one block: with 1500 keys its scores take 0.75 MB


def blocked(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """A kernel as :mod:`core.nn.kernels` means it, in bfloat16 whatever the inputs are; the result is of q's type.

    What it has no blocks for (masks, biases, grouped heads, gradients) goes to :func:`core.nn.kernels.attend`.
    """
    plain = bias is None and q.shape[1] == k.shape[1] and sight.everything(q.shape[2], k.shape[2])
    if not plain or q.device.type != "cpu" or torch.is_grad_enabled():
        return kernels.attend(q, k.to(q.dtype), v.to(q.dtype), sight, bias, scale)
    rows, heads, length, width = q.shape
    scale = width**-0.5 if scale is None else scale
    asked = (q * scale).to(torch.bfloat16).reshape(rows * heads, length, width)
    keys, values = (t.to(torch.bfloat16).reshape(rows * heads, t.shape[2], t.shape[3]) for t in (k, v))
    if length == 1:
        weights = torch.bmm(asked, keys.transpose(1, 2)).softmax(-1)
        return torch.bmm(weights, values).to(q.dtype).view(rows, heads, 1, -1)
    # (B, L, h, d): what follows joins the heads, and need not copy them for it
    found = q.new_empty(rows, length, heads, v.shape[3])
    for number in range(rows * heads):
        part, theirs = found[number // heads, :, number % heads], keys[number].t()
        for first in range(0, length, QUERIES):
            weights = (asked[number, first : first + QUERIES] @ theirs).softmax(-1)
            part[first : first + QUERIES] = weights @ values[number]
    return found.transpose(1, 2)
