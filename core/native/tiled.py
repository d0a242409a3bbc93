"""Products of many rows of 16-bit integers with weights of 8 bits, exactly, in tiles (`core.simd.tile`).

A row's integers are two digits each, 256 * high + low, which are two rows of 8 bits: both are multiplied with the
weights of 64 outputs, laid out once for all rows, and put together.
"""

import numpy as np

from core.simd.tile import COLUMNS, ROWS, tile_int8

from .compiled import compiled

__all__ = ["in_tiles"]

GROUP = 4  # integers that are multiplied in one step
TOKENS = ROWS // 2  # of a tile
I32 = np.int32
MIDDLE = I32(128)  # is added to high digits: the instruction takes unsigned ones


@compiled
def _digits(x):  # type: ignore[no-untyped-def]
    """Both digits of each of x (N, in) int16, (2 * N, in) uint8, with zeros up to whole tiles."""
    rows, size = x.shape
    digits = np.empty((-(-rows // TOKENS) * ROWS, size), np.uint8)
    digits[2 * rows :] = 0
    for i in range(rows):
        for k in range(size):
            code = I32(x[i, k])
            digits[2 * i, k] = np.uint8((code >> I32(8)) + MIDDLE)
            digits[2 * i + 1, k] = np.uint8(code & I32(255))
    return digits


@compiled
def in_tiles(x, codes, first, totals):  # type: ignore[no-untyped-def]
    """Write sums of products of rows.

    Args:
        x: (N, in) int16, whose sums fit into 32 bits.
        codes: weights (out, in) int8.
        first: of the outputs that are asked for.
        totals: (N or more, outputs) int32, written.

    Returns:
        How many rows are done: none if the inputs don't come in fours.
    """
    rows, size = x.shape
    outputs = totals.shape[1]
    if size % GROUP:
        return 0
    steps = size // GROUP
    digits = _digits(x)
    tile = np.zeros((steps, COLUMNS), np.int32)  # four weights in each
    zeros = np.zeros(COLUMNS, np.int32)
    found = np.empty((ROWS, COLUMNS), np.int32)
    digits_at, tile_at, found_at = digits.ctypes.data, tile.ctypes.data, found.ctypes.data
    for begin in range(0, outputs, COLUMNS):
        many = min(COLUMNS, outputs - begin)
        for j in range(many):
            weight = codes[first + begin + j]
            total = I32(0)
            for k in range(size):
                total = I32(total + I32(weight[k]))
            zeros[j] = MIDDLE * total
            fours = weight.view(np.int32)
            for s in range(steps):
                tile[s, j] = fours[s]
        for block in range(0, rows, TOKENS):
            tile_int8(digits_at + 2 * block * size, size, tile_at, found_at, 4 * COLUMNS, steps)
            for t in range(min(TOKENS, rows - block)):
                high, low, sums = found[2 * t], found[2 * t + 1], totals[block + t]
                for j in range(many):
                    sums[begin + j] = I32(I32(I32(high[j] - zeros[j]) << I32(8)) + low[j])
    digits[0, 0] = 0  # what only addresses point to would be freed before the loop
    return rows
