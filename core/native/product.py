"""Linear layers for rows of float32, whose weights are 8-bit integers or float32.

Beside integers rows are rounded to as many bits as sums of 32 bits allow, 14 for 2000 inputs, which is exact beside the
weights' 8. Sums of integers are the same in any order, those of float32 are made in one order: a row's result doesn't
depend on the rows beside it.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import prange
from numba.extending import overload
from torch import Tensor, nn

from core.simd import has_vnni
from core.simd.dots import (
    FLOAT_OUTPUTS,
    NUMBERS,
    OUTPUTS,
    ROWS,
    WIDTH,
    dots_float32,
    dots_int16,
    dots_of_one,
)
from core.simd.rows import EXACT, gelu, silu

from .compiled import as_written, compiled, in_parallel
from .tiled import in_tiles

__all__ = ["Matrix", "Weight", "linear", "linear_gelu", "linear_swiglu"]

F = np.float32
MANY = 24  # rows from which a tile of weights is worth being laid out
STEPS = 127  # codes are from -127 to 127
TINY = F(1e-30)
MOST = 192  # rows whose sums are kept in the caches


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


class Matrix(NamedTuple):
    """A linear layer in float32."""

    weight: np.ndarray  # (out, in) float32
    bias: np.ndarray  # (out,) float32


@compiled
def _rounded(x, codes, scales, first, last):  # type: ignore[no-untyped-def]
    """Rows (N, in) as 16-bit integers with a scale each, of which sums of products with codes fit into 32 bits."""
    size = x.shape[1]
    largest = F(min(2**15 - 1, (2**31 - 1) // (STEPS * size)))
    for i in range(first, last):
        most = TINY
        for k in range(size):
            most = max(most, abs(x[i, k]))
        scale = largest / most
        for k in range(size):
            codes[i, k] = np.int16(np.rint(x[i, k] * scale))
        scales[i] = most / largest


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
            ahead = codes_at + size * (o + 2 * OUTPUTS)
            dots_int16(x_at + 2 * size * i, 2 * size, codes_at + size * o, size, found_at, size // NUMBERS, ahead)
            for r in range(ROWS):
                for c in range(OUTPUTS):
                    totals[i + r, o + c] = found[r, c]
    return rows


@compiled
def _in_tiles(x, codes, first, totals):  # type: ignore[no-untyped-def]
    """As `_together`, of many rows."""
    return in_tiles(x, codes, first, totals) if len(x) >= MANY else _together(x, codes, first, totals)


@compiled
def _not_together(x, codes, first, totals):  # type: ignore[no-untyped-def]
    """Where the processor lacks the instructions for `_in_tiles`."""
    return 0


_some = _in_tiles if has_vnni() else _not_together


@as_written
def _scaled(totals, x_scale, scales, bias, y):  # type: ignore[no-untyped-def]
    """One row's sums (out,) as float32, rounded alike however they were found."""
    for o in range(len(totals)):
        y[o] = F(totals[o]) * (x_scale * scales[o]) + bias[o]


@compiled
def _of_codes(x, x_scales, weight, y, first, last):  # type: ignore[no-untyped-def]
    codes, scales, bias = weight
    block = MOST if len(x) >= MANY else len(x)
    totals = np.empty((min(block, len(x)), last - first), np.int32)
    for begin in range(0, len(x), block):
        rows = x[begin : begin + block]
        done = _some(rows, codes, first, totals)
        for o in range(first, last if done < len(rows) else first):
            for i in range(done, len(rows)):
                totals[i, o - first] = _dot(rows[i], codes[o])
        for i in range(len(rows)):
            at = begin + i
            _scaled(totals[i], x_scales[at], scales[first:last], bias[first:last], y[at, first:last])


@compiled
def _of_floats(x, x_scales, matrix, y, first, last):  # type: ignore[no-untyped-def]
    weight, bias = matrix
    rows, size = x.shape
    steps = size // WIDTH
    whole = steps * WIDTH if last - first >= FLOAT_OUTPUTS else 0
    if whole:
        found = np.empty((ROWS, FLOAT_OUTPUTS), np.float32)
        x_at, weight_at, found_at = x.ctypes.data, weight.ctypes.data, found.ctypes.data
        for group in range(first, last, FLOAT_OUTPUTS):
            o = min(group, last - FLOAT_OUTPUTS)  # the last may repeat some
            i = 0
            while i < rows:
                many = ROWS if i + ROWS <= rows else 1
                x_row, weight_row = x_at + 4 * size * i, weight_at + 4 * size * o
                # of the next group, each of the first calls fetches the weights of one output
                ahead = weight_at + 4 * size * (o + FLOAT_OUTPUTS + i // ROWS % FLOAT_OUTPUTS)
                if many == ROWS:
                    dots_float32(x_row, 4 * size, weight_row, 4 * size, found_at, steps, ahead)
                else:
                    dots_of_one(x_row, 4 * size, weight_row, 4 * size, found_at, steps, ahead)
                for r in range(many):
                    for c in range(FLOAT_OUTPUTS):
                        y[i + r, o + c] = found[r, c]
                i += many
    for i in range(rows):
        for o in range(first, last):
            total = y[i, o] if whole else F(0)
            for k in range(whole, size):
                total += x[i, k] * weight[o, k]
            y[i, o] = total + bias[o]


def _room(x: Any, weight: Any) -> Any:
    """Where rows go as a kind of weight takes them, and their scales."""


@overload(_room)
def _room_for(x, weight):  # type: ignore[no-untyped-def]
    if weight.instance_class is Matrix:
        return lambda x, weight: (x, np.empty(0, np.float32))
    return lambda x, weight: (np.empty(x.shape, np.int16), np.empty(len(x), np.float32))


def _ready(x: Any, weight: Any, rows: Any, scales: Any, first: int, last: int) -> None:
    """Write rows from `first` to `last` there."""


@overload(_ready)
def _ready_for(x, weight, rows, scales, first, last):  # type: ignore[no-untyped-def]
    if weight.instance_class is Matrix:
        return lambda x, weight, rows, scales, first, last: None
    return lambda x, weight, rows, scales, first, last: _rounded(x, rows, scales, first, last)


@in_parallel
def _prepared(x, weight, threads):  # type: ignore[no-untyped-def]
    rows, scales = _room(x, weight)
    count = len(x)
    if count < MANY:  # which is sooner done than threads are woken
        _ready(x, weight, rows, scales, 0, count)
    else:
        for part in prange(threads):
            _ready(x, weight, rows, scales, part * count // threads, (part + 1) * count // threads)
    return rows, scales


def _outputs(x: Any, x_scales: Any, weight: Any, y: Any, first: int, last: int) -> None:
    """Outputs from `first` to `last`, of which that is not one."""


@overload(_outputs)
def _outputs_of(x, x_scales, weight, y, first, last):  # type: ignore[no-untyped-def]
    if weight.instance_class is Matrix:
        return lambda x, x_scales, weight, y, first, last: _of_floats(x, x_scales, weight, y, first, last)
    return lambda x, x_scales, weight, y, first, last: _of_codes(x, x_scales, weight, y, first, last)


@in_parallel
def linear(x, weight, y, threads):  # type: ignore[no-untyped-def]
    """Map x (N, in) to y (N, out), which is written, by a `Weight` or a `Matrix`."""
    rows, scales = _prepared(x, weight, threads)
    size = y.shape[1]
    for part in prange(threads):
        _outputs(rows, scales, weight, y, part * size // threads, (part + 1) * size // threads)


@in_parallel
def linear_gelu(x, weight, y, threads):  # type: ignore[no-untyped-def]
    """As :func:`linear`, with the GELU of the result."""
    rows, scales = _prepared(x, weight, threads)
    size = y.shape[1]
    for part in prange(threads):
        first, last = part * size // threads, (part + 1) * size // threads
        _outputs(rows, scales, weight, y, first, last)
        for i in range(len(y)):
            gelu(y[i, first:last], EXACT)


@in_parallel
def linear_swiglu(x, weight, y, threads):  # type: ignore[no-untyped-def]
    """As :func:`linear` with twice as many outputs, gates and values: y (N, out) = SiLU(gate) * value."""
    rows, scales = _prepared(x, weight, threads)
    size = y.shape[1]
    both = np.empty((len(y), 2 * size), np.float32)
    for part in prange(threads):
        first, last = part * size // threads, (part + 1) * size // threads
        _outputs(rows, scales, weight, both, first, last)
        _outputs(rows, scales, weight, both, size + first, size + last)
        for i in range(len(y)):
            for o in range(first, last):
                y[i, o] = silu(both[i, o]) * both[i, size + o]
