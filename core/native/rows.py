"""What is done number by number to many rows, those of a prompt: spread over threads, in one pass over memory.

PyTorch's operations are a pass each, and beside its fast matrix products a third of the time. Rows are float32, or the
bits of bfloat16 in 16-bit integers.
"""

from typing import Any

import numpy as np
from numba import prange, types
from numba.extending import overload

from core.simd.rows import silu, to_bf16

from .compiled import compiled, in_parallel
from .pointwise import rms_norm, rotate

__all__ = ["rms_norm_rows", "rotate_rows", "swiglu_rows"]


def _wide(number: Any) -> Any:
    """A number as float32."""


@overload(_wide)
def _wide_of(number):  # type: ignore[no-untyped-def]
    if isinstance(number, types.Integer):
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    return lambda number: number


def _put(row: Any, k: int, number: Any) -> None:
    """Write a number into a row."""


@overload(_put)
def _put_into(row, k, number):  # type: ignore[no-untyped-def]
    if isinstance(row.dtype, types.Integer):

        def rounded(row, k, number):  # type: ignore[no-untyped-def]
            row[k] = to_bf16(number)

        return rounded

    def kept(row, k, number):  # type: ignore[no-untyped-def]
        row[k] = number

    return kept


@compiled
def _swiglu(both, scales, bias, y):  # type: ignore[no-untyped-def]
    size = len(y)
    for k in range(size):
        gate = _wide(both[k]) * scales[k] + bias[k]
        value = _wide(both[size + k]) * scales[size + k] + bias[size + k]
        _put(y, k, silu(gate) * value)


@in_parallel
def swiglu_rows(both, scales, bias, y, threads):  # type: ignore[no-untyped-def]
    """SiLU(gate) * value of rows (N, 2 * out), gates first, into y; both are multiplied by scales, and biases added."""
    for part in prange(threads):
        for i in range(part * len(y) // threads, (part + 1) * len(y) // threads):
            _swiglu(both[i], scales, bias, y[i])


@in_parallel
def rms_norm_rows(x, weight, eps, y, threads):  # type: ignore[no-untyped-def]
    """As :func:`rms_norm`."""
    for part in prange(threads):
        first, last = part * len(y) // threads, (part + 1) * len(y) // threads
        rms_norm(x[first:last], weight, eps, y[first:last])


@in_parallel
def rotate_rows(x, cos, sin, y, threads):  # type: ignore[no-untyped-def]
    """As :func:`rotate`, of the heads of each row of x (N, h, d) into y, by its row of cosines and sines (N, n)."""
    for part in prange(threads):
        for i in range(part * len(y) // threads, (part + 1) * len(y) // threads):
            y[i] = x[i]
            rotate(y[i], cos[i], sin[i])
