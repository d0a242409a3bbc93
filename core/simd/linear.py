"""A linear layer of 8-bit integers: a few rows are coded, multiplied, scaled and finished before the next are begun."""

import numpy as np
import torch
from numba import carray, cfunc
from torch import Tensor

from .rows import EXACT, TANH, codes, gelu
from .team import OWN, SIGNATURE, compiled, next_job, run, scratch
from .tile import COLUMNS, ROWS, address_of, pointer, tile_int8

__all__ = ["Packed"]

MOST = 48  # rows of a job
GELUS = (None, "none", "tanh")  # by their number in the kernel
GROUP = 4  # integers that are multiplied in one step
U8, I32, F32 = np.uint8, np.int32, np.float32


@compiled
def _linear(given, address):  # type: ignore[no-untyped-def]
    x, stride, count, width = given[OWN], given[OWN + 1], given[OWN + 2], given[OWN + 3]
    outputs, block, bent = given[OWN + 4], given[OWN + 5], given[OWN + 6]
    weight, other, y = given[OWN + 7], given[OWN + 8], given[OWN + 9]
    steps, tiles = -(-width // GROUP), -(-outputs // COLUMNS)
    scale_of = carray(pointer(given[OWN + 10], F32), (tiles * COLUMNS,))
    zero_of = carray(pointer(given[OWN + 11], I32), (tiles * COLUMNS,))
    bias_of = carray(pointer(given[OWN + 12], F32), (tiles * COLUMNS,))
    coded = scratch(given, address)
    sums = coded + block * steps * GROUP
    worth = sums + block * 4 * COLUMNS
    worth_of = carray(pointer(worth, F32), (block,))
    found = carray(pointer(sums, I32), (block, COLUMNS))
    made = carray(pointer(sums, F32), (block, COLUMNS))
    while True:
        first = next_job(address) * block
        if first >= count:
            return
        rows = min(block, count - first)
        for i in range(rows):
            row = carray(pointer(x + (first + i) * stride, F32), (width,))
            worth_of[i] = codes(row, carray(pointer(coded + i * steps * GROUP, U8), (width,)))
        for t in range(tiles):
            begin = t * COLUMNS
            for i in range(0, rows, ROWS):
                tile_int8(
                    coded + i * steps * GROUP,
                    steps * GROUP,
                    weight + begin * steps * GROUP,
                    sums + i * 4 * COLUMNS,
                    4 * COLUMNS,
                    steps,
                )
            many = min(COLUMNS, outputs - begin)
            for i in range(rows):
                step, total, line = worth_of[i], found[i], made[i]
                for j in range(COLUMNS):
                    line[j] = F32(total[j] - zero_of[begin + j]) * (step * scale_of[begin + j]) + bias_of[begin + j]
                if bent == 1:
                    gelu(line, EXACT)
                elif bent == 2:
                    gelu(line, TANH)
                place = ((first + i) * outputs + begin) * 4
                out = carray(pointer(y + place, F32), (many,))
                if other:
                    more = carray(pointer(other + place, F32), (many,))
                    for j in range(many):
                        out[j] = line[j] + more[j]
                else:
                    for j in range(many):
                        out[j] = line[j]


@cfunc(SIGNATURE, cache=True)
def _kernel(given):  # type: ignore[no-untyped-def]
    _linear(carray(given, (OWN + 13,)), address_of(given))


class Packed:
    """The weight of a linear layer as 8-bit integers, in the order in which they are multiplied.

    Args:
        weight: (out, in) float32.
        bias: (out,) float32, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.outputs, self.width = weight.shape
        scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        tiles, steps = -(-self.outputs // COLUMNS), -(-self.width // GROUP)
        codes = torch.zeros(tiles * COLUMNS, steps * GROUP, dtype=torch.int8)
        codes[: self.outputs, : self.width] = (weight / scales[:, None]).round()
        self.zeros = 128 * codes.sum(1, dtype=torch.int32)  # what the 128 that means 0 adds to each sum
        self.codes = codes.view(tiles, COLUMNS, steps, GROUP).transpose(1, 2).contiguous()
        self.scales, self.bias = torch.zeros(2, tiles * COLUMNS)
        self.scales[: self.outputs] = scales
        if bias is not None:
            self.bias[: self.outputs] = bias

    def __call__(self, x: Tensor, other: Tensor | None = None, gelu: str | None = None) -> Tensor:
        """Map rows x (N, in), which may overlap, to (N, out), float32.

        Args:
            x: float32, each row contiguous.
            other: added to the result: (N, out), contiguous.
            gelu: None, or how GELU follows: ``"none"`` exactly, ``"tanh"`` approximately.
        """
        x = x if x.stride(1) == 1 else x.contiguous()
        count = len(x)
        y = torch.empty(count, self.outputs)
        steps = self.codes.shape[1]
        share = -(-count // (3 * torch.get_num_threads()))
        block = min(MOST, -(-max(share, 1) // ROWS) * ROWS)
        bent = GELUS.index(gelu)
        tensors = (self.scales, self.zeros, self.bias)
        numbers = [x.data_ptr(), 4 * x.stride(0), count, self.width, self.outputs, block, bent, self.codes.data_ptr()]
        numbers += [0 if other is None else other.data_ptr(), y.data_ptr(), *(t.data_ptr() for t in tensors)]
        run(_kernel, numbers, block * (steps * GROUP + 4 * COLUMNS + 4))
        return y
