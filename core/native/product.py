"""Linear layers whose weights are 8-bit integers, for rows of float32.

Rows are rounded to as many bits as sums of 32 bits allow, 14 for 2000 inputs, which is exact beside the weights' 8.
Sums of integers are the same in any order: a row's result doesn't depend on the rows beside it.
"""

from typing import NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor, nn

from core.simd.rows import EXACT, gelu

from .compiled import compiled, in_parallel

__all__ = ["Weight", "linear", "linear_gelu"]

F = np.float32
STEPS = 127  # codes are from -127 to 127
TINY = F(1e-30)


class Weight(NamedTuple):
    """A linear layer: ``codes * scales[:, None]`` approximates its weight."""

    codes: np.ndarray  # (out, in) int8
    scales: np.ndarray  # (out,) float32
    bias: np.ndarray  # (out,) float32

    @classmethod
    def of(cls, *layers: nn.Linear | nn.Embedding) -> "Weight":
        """Of one layer, or of several with the same input, one below another."""
        parts = [cls._of(layer.weight.detach().float(), getattr(layer, "bias", None)) for layer in layers]
        codes, scales, bias = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
        return cls(codes, scales, bias)

    @staticmethod
    def _of(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / STEPS
        codes = (weight / scales[:, None]).round().to(torch.int8)
        return codes, scales, weight.new_zeros(len(weight)) if bias is None else bias.detach().float()


@compiled
def _rounded(x):  # type: ignore[no-untyped-def]
    """Rows (N, in) as 16-bit integers with a scale each, of which sums of products with codes fit into 32 bits."""
    rows, size = x.shape
    codes, scales = np.empty((rows, size), np.int16), np.empty(rows, np.float32)
    largest = F(min(2**15 - 1, (2**31 - 1) // (STEPS * size)))
    for i in range(rows):
        most = TINY
        for k in range(size):
            most = max(most, abs(x[i, k]))
        scale = largest / most
        for k in range(size):
            codes[i, k] = np.int16(np.rint(x[i, k] * scale))
        scales[i] = most / largest
    return codes, scales


@compiled
def _dot(x, weight):  # type: ignore[no-untyped-def]
    total = np.int32(0)
    for k in range(len(x)):
        total = np.int32(total + np.int32(x[k]) * np.int32(weight[k]))
    return total


@compiled
def _outputs(x, x_scales, weight, y, first, last):  # type: ignore[no-untyped-def]
    """Outputs from `first` to `last`, of which that is not one: each weight is read once."""
    for o in range(first, last):
        row, scale, bias = weight.codes[o], weight.scales[o], weight.bias[o]
        for i in range(len(x)):
            y[i, o] = F(_dot(x[i], row)) * (x_scales[i] * scale) + bias


@in_parallel
def linear(x, weight, y, threads):  # type: ignore[no-untyped-def]
    """Map x (N, in) to y (N, out), which is written, by a `Weight`."""
    codes, scales = _rounded(x)
    size = y.shape[1]
    for part in prange(threads):
        _outputs(codes, scales, weight, y, part * size // threads, (part + 1) * size // threads)


@in_parallel
def linear_gelu(x, weight, y, threads):  # type: ignore[no-untyped-def]
    """As :func:`linear`, with the GELU of the result."""
    codes, scales = _rounded(x)
    size = y.shape[1]
    for part in prange(threads):
        first, last = part * size // threads, (part + 1) * size // threads
        _outputs(codes, scales, weight, y, first, last)
        for i in range(len(y)):
            gelu(y[i, first:last], EXACT)
