"""Layers that take the places of a decoder's own where it reads long prompts beside compiled functions.

They compute the same with fewer passes over memory; with weights of 8-bit integers, products and attention are in
bfloat16.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.native import Matrix, Weight, one_at_a_time, rms_norm_rows, rotate_rows, swiglu_rows
from core.native.stacked import part_of
from core.nn import Attention, Ctx, GatedMlp, Residual, RMSNorm, Rope, halves
from core.nn.frozen import Frozen, Unsaved
from core.nn.kernels import attend
from core.nn.mask import Sight

__all__ = ["use_kernels"]


class Codes(Frozen):
    """A linear layer for many rows, whose weight is part of a stack of 8-bit integers: bfloat16 holds these exactly.

    Args:
        layer: What it stands for.
        weight: The stack, of all layers of a kind.
        number: Of the layer.
        begin: Where its outputs begin.
    """

    def __init__(self, layer: nn.Linear, weight: Weight, number: int, begin: int = 0) -> None:
        super().__init__(layer)
        self.codes, self.scales = part_of(weight, number, begin, begin + layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        y = F.linear(x.to(torch.bfloat16), self.codes.to(torch.bfloat16)).float().mul_(self.scales)
        return y if self.bias is None else y.add_(self.bias)


class NormRows(Unsaved):
    """An RMSNorm of rows of float32.

    Args:
        norm: What it stands for.
    """

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.weight = norm.weight.detach().float().numpy()
        self.eps = np.float32(norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to itself."""
        rows = x.contiguous().view(-1, x.shape[-1])
        y = torch.empty_like(rows)
        with one_at_a_time() as threads:
            rms_norm_rows(rows.numpy(), self.weight, self.eps, y.numpy(), threads)
        return y.view(x.shape)


class RopeRows(nn.Module):
    """A rotary position that computes its sines once for all layers that read a prompt.

    Args:
        rope: What it stands for: one axis, channels paired by :func:`core.nn.halves`.
    """

    def __init__(self, rope: Rope) -> None:
        super().__init__()
        assert rope.turn is halves
        self.rope = rope
        self._held: tuple[Tensor, np.ndarray, np.ndarray] | None = None  # coords, cosine, sine

    def forward(self, x: Tensor, coords: Tensor) -> Tensor:
        """Turn x (B, heads, L, d) by coords (B or 1, L)."""
        held = self._held
        if held is None or held[0] is not coords:
            angle = coords.clamp(min=0)[..., None] * self.rope.frequencies.flatten()  # (B or 1, L, n)
            cos, sin = (part.mul_(self.rope.magnitude).numpy() for part in (angle.cos(), angle.sin()))
            held = self._held = coords, cos, sin
        rows = x.transpose(1, 2).contiguous()  # (B, L, heads, d)
        y = torch.empty_like(rows)
        with one_at_a_time() as threads:
            for number in range(len(rows)):
                cos, sin = (part[number if len(part) > 1 else 0] for part in held[1:])
                rotate_rows(rows[number].numpy(), cos, sin, y[number].numpy(), threads)
        return y.transpose(1, 2)


class SwiGLURows(Unsaved):
    """A SwiGLU.

    Args:
        both: The layer of the gates and, below them, of the values.
        down: The layer behind.
    """

    def __init__(self, both: Matrix | Weight, down: nn.Module) -> None:
        super().__init__()
        self.weight = torch.from_numpy(both.weight if isinstance(both, Matrix) else both.codes)
        self.scales = np.ones_like(both.bias) if isinstance(both, Matrix) else both.scales
        self.bias = both.bias
        self.down = down

    def forward(self, x: Tensor, ctx: Ctx | None = None) -> Tensor:
        """Map (..., D) to itself."""
        kind = torch.float32 if self.weight.dtype is torch.float32 else torch.bfloat16
        both = F.linear(x.to(kind), self.weight.to(kind)).flatten(0, -2)
        y = both.new_empty(len(both), both.shape[1] // 2)
        with one_at_a_time() as threads:
            swiglu_rows(_numbers(both), self.scales, self.bias, _numbers(y), threads)
        found: Tensor = self.down(y.view(*x.shape[:-1], -1))
        return found


def in_bfloat16(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attention (:mod:`core.nn.kernels`) of float32, computed in bfloat16, as which the result stays."""
    return attend(q.to(torch.bfloat16), k.to(torch.bfloat16), v.to(torch.bfloat16), sight, bias, scale)


def use_kernels(
    owns: Sequence[Residual],
    feeds: Sequence[Residual],
    qkv: Matrix | Weight,
    out: Matrix | Weight,
    gate_up: Matrix | Weight,
    down: Matrix | Weight,
    rope: Rope,
) -> None:
    """Let the branches of all layers, attention and SwiGLUs, compute with what this file has.

    Args:
        owns, feeds: The branches; changed in place.
        qkv, out, gate_up, down: Their weights, as the compiled functions read them: (layers, out, in).
        rope: Of all layers.
    """
    turn = RopeRows(rope)
    for n, (own, feed) in enumerate(zip(owns, feeds, strict=True)):
        attention, mlp = own.fn, feed.fn
        assert isinstance(attention, Attention)
        assert isinstance(mlp, GatedMlp)
        if isinstance(down, Weight):
            begin = 0
            for heads in (attention.q, attention.k, attention.v):
                heads.proj = Codes(heads.proj, qkv, n, begin)  # type: ignore[assignment, arg-type]
                begin += heads.proj.out_features
            attention.out = Codes(attention.out, out, n)  # type: ignore[arg-type]
            attention.kernel = in_bfloat16
            mlp.down = Codes(mlp.down, down, n)  # type: ignore[assignment]
        attention.q.turn = attention.k.turn = turn
        own.norm, feed.norm = (NormRows(branch.norm) for branch in (own, feed))  # type: ignore[arg-type]
        feed.fn = SwiGLURows(type(gate_up)(*(part[n] for part in gate_up)), mlp.down)


def _numbers(rows: Tensor) -> np.ndarray:
    """Rows as the kernels take them."""
    found: np.ndarray = (rows if rows.dtype is torch.float32 else rows.view(torch.uint16)).numpy()
    return found
