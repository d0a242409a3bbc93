"""Norms and sums of rows of float32."""

from typing import NamedTuple

import numpy as np
from torch import nn

from .compiled import compiled

__all__ = ["Norm", "add", "layer_norm", "rms_norm", "rotate"]

F = np.float32


class Norm(NamedTuple):
    """The weights of a norm."""

    weight: np.ndarray  # (D,) float32
    bias: np.ndarray  # (D,) float32
    eps: np.float32

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> "Norm":
        """Of a layer, in float32."""
        weight, bias = (part.detach().float().numpy() for part in (norm.weight, norm.bias))
        return cls(weight, bias, F(norm.eps))


@compiled
def layer_norm(x, norm, y):  # type: ignore[no-untyped-def]
    """LayerNorm of each row of x (N, D) into y."""
    weight, bias, eps = norm
    rows, dim = x.shape
    for i in range(rows):
        total = F(0.0)
        for k in range(dim):
            total += x[i, k]
        mean = total / F(dim)
        square = F(0.0)
        for k in range(dim):
            square += (x[i, k] - mean) * (x[i, k] - mean)
        scale = F(1.0) / np.sqrt(square / F(dim) + eps)
        for k in range(dim):
            y[i, k] = (x[i, k] - mean) * scale * weight[k] + bias[k]


@compiled
def add(x, y):  # type: ignore[no-untyped-def]
    """Add y (N, D) to x."""
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            x[i, k] += y[i, k]


@compiled
def rms_norm(x, weight, eps, y):  # type: ignore[no-untyped-def]
    """RMSNorm of each row of x (N, D) into y, which may be x."""
    rows, dim = x.shape
    for i in range(rows):
        square = F(0.0)
        for k in range(dim):
            square += x[i, k] * x[i, k]
        scale = F(1.0) / np.sqrt(square / F(dim) + eps)
        for k in range(dim):
            y[i, k] = x[i, k] * scale * weight[k]


@compiled
def rotate(heads, cos, sin):  # type: ignore[no-untyped-def]
    """Turn heads (h, d) of one token in place: channel k < n with k + n, by the cosine and the sine (n,); d >= 2n."""
    half = len(cos)
    for head in range(len(heads)):
        for k in range(half):
            a, b = heads[head, k], heads[head, k + half]
            heads[head, k] = a * cos[k] - b * sin[k]
            heads[head, k + half] = b * cos[k] + a * sin[k]
