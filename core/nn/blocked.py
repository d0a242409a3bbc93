"""Attention for inference on a processor: bfloat16 matrix products over blocks of queries whose scores stay in cache.

PyTorch's fused attention gains nothing from bfloat16 without AMX, and with a single query (decoding) it loses to plain
products. Where there is :mod:`core.simd`, it takes what has more than a few queries.
"""

from itertools import product

import torch
from torch import Tensor, nn

from core import simd

from . import kernels
from .attention import Attention
from .mask import Sight

__all__ = ["blocked", "in_blocks"]

QUERIES = 256  # of one block: with 1500 keys its scores take 0.75 MB
SCORES = 1 << 19  # of several heads, if they are few
FEW = 16  # queries for which blocks are not worth their number


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
    if simd.available() and length > FEW and width % 2 == 0:
        from core.simd.attention import attend

        return attend(q, k, v, scale).to(q.dtype)
    asked, keys, values = (t.to(torch.bfloat16).contiguous() for t in (q * scale, k, v))
    together = SCORES // (min(length, QUERIES) * k.shape[2])  # heads
    if length <= FEW or rows * heads <= together:
        weights = (asked @ keys.transpose(2, 3)).softmax(-1)
        return (weights @ values).to(q.dtype)
    # (B, L, h, d): what follows joins the heads, and need not copy them for it
    found = q.new_empty(rows, length, heads, v.shape[3]).transpose(1, 2)
    for row, head in product(range(rows), range(0, heads, max(1, together))):
        at = (row, slice(head, head + together) if together > 1 else head)  # products of matrices beat batches of one
        part, theirs = found[at], keys[at].transpose(-2, -1)
        for first in range(0, length, QUERIES):
            block = slice(first, first + QUERIES)
            part[..., block, :] = (asked[at][..., block, :] @ theirs).softmax(-1) @ values[at]
    return found


def in_blocks(model: nn.Module) -> nn.Module:
    """Let the attention of a model on a processor be `blocked`, where that is faster than PyTorch's own."""
    if torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported():
        for module in model.modules():
            if isinstance(module, Attention) and module.kernel is kernels.attend:
                module.kernel = blocked
    return model
