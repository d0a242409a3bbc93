"""Linear layers whose weights are 8-bit integers, for rows of float32.

Rows are rounded to as many bits as sums of 32 bits allow, 14 for 2000 inputs, which is exact beside the weights' 8.
Sums of integers are the same in any order: a row's result doesn't depend on the rows beside it.
"""

from typing import NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor, nn

from core.simd import available
from core.simd.dots import NUMBERS, OUTPUTS, ROWS, dots_int16
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
def _together(x, codes, first, totals):  # type: ignore[no-untyped-def]
    """Sums of as many rows as come in fours, whose number is returned: a weight is widened once for four rows."""
    size, outputs = x.shape[1], totals.shape[1]
    rows = len(x) // ROWS * ROWS
    if size % NUMBERS or outputs < OUTPUTS:
        return 0
    found = np.empty((ROWS, OUTPUTS), np.int32)
    x_at, codes_at, found_at = x.ctypes.data, codes.ctypes.data + size * first, found.ctypes.data
    for pair in range(0, outputs, OUTPUTS):
        o = min(pair, outputs - OUTPUTS)  # the last may repeat one
        for i in range(0, rows, ROWS):
            dots_int16(x_at + 2 * size * i, 2 * size, codes_at + size * o, size, found_at, size // NUMBERS)
            for r in range(ROWS):
                for c in range(OUTPUTS):
                    totals[i + r, o + c] = found[r, c]
    return rows


@compiled
def _not_together(x, codes, first, totals):  # type: ignore[no-untyped-def]
    """Where the processor lacks the instructions for `_together`."""
    return 0


_fours = _together if available() else _not_together


@compiled
def _outputs(x, x_scales, weight, y, first, last):  # type: ignore[no-untyped-def]
    """Outputs from `first` to `last`, of which that is not one."""
    codes, scales, bias = weight
    rows = len(x)
    totals = np.empty((rows, last - first), np.int32)
    done = _fours(x, codes, first, totals)
    if done < rows:
        for o in range(first, last):
            for i in range(done, rows):
                totals[i, o - first] = _dot(x[i], codes[o])
    for i in range(rows):  # in one place for all, so that all are rounded alike
        for o in range(first, last):
            y[i, o] = F(totals[i, o - first]) * (x_scales[i] * scales[o]) + bias[o]


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
