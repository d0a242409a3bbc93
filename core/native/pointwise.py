"""Norms, activations and exponentials of rows of float32."""

import math
from typing import NamedTuple

import numpy as np
from torch import nn

from .compiled import compiled

__all__ = ["Norm", "add", "exp", "gelu", "layer_norm"]

F = np.float32
LOG2_E = F(math.log2(math.e))
LN2_HIGH, LN2_LOW = F(0.693359375), F(-2.12194440e-4)  # ln 2 in two parts, the first of few bits
LOWEST = F(-87.0)  # exp of less is not a normal number: taken as exp(-87)
SQRT_HALF = F(math.sqrt(0.5))


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
def exp(x):  # type: ignore[no-untyped-def]
    """The exponential of a float32 not above 0, with a relative error below 2e-7.

    By hand, for ``math.exp`` would keep the loop around it from being made into vectors. Source: Cephes, ``expf.c``.
    """
    x = max(x, LOWEST)
    n = np.floor(x * LOG2_E + F(0.5))
    x = x - n * LN2_HIGH - n * LN2_LOW
    y = F(1.9875691500e-4)
    y = y * x + F(1.3981999507e-3)
    y = y * x + F(8.3334519073e-3)
    y = y * x + F(4.1665795894e-2)
    y = y * x + F(1.6666665459e-1)
    y = y * x + F(5.0000001201e-1)
    y = y * x * x + x + F(1.0)
    return y * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled
def gelu(row):  # type: ignore[no-untyped-def]
    """Apply the exact GELU (of the error function, to 1.5e-7) to a row, in place.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
    """
    for i in range(len(row)):
        x = row[i] * SQRT_HALF
        size = abs(x)
        t = F(1.0) / (F(1.0) + F(0.3275911) * size)
        tail = t * (
            F(0.254829592) + t * (F(-0.284496736) + t * (F(1.421413741) + t * (F(-1.453152027) + t * F(1.061405429))))
        )
        tail *= exp(-size * size)  # 1 - erf(|x|)
        half = F(0.5) * tail
        row[i] *= half if x < F(0.0) else F(1.0) - half


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
