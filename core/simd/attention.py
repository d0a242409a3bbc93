"""Softmax attention in bfloat16: a few queries see all keys before the next do: scores stay in the caches."""

import math

import numpy as np
import torch
from numba import carray, cfunc
from torch import Tensor

from .rows import largest, powers
from .team import OWN, SIGNATURE, compiled, next_job, run, scratch
from .tile import COLUMNS, ROWS, address_of, pointer, tile_bf16

__all__ = ["attend"]

BLOCK = 12  # queries of a job
PAIR = 2  # bfloat16 that are multiplied in one step
U16, U32, F32 = np.uint16, np.uint32, np.float32


@compiled
def _products(a, stride, b, c, c_stride, steps):  # type: ignore[no-untyped-def]
    """One tile of columns for all queries of a job."""
    for i in range(0, BLOCK, ROWS):
        tile_bf16(a + i * stride, stride, b, c + i * c_stride, c_stride, steps)


@compiled
def _attend(given, address):  # type: ignore[no-untyped-def]
    q, keys, values, out = given[OWN], given[OWN + 1], given[OWN + 2], given[OWN + 3]
    heads, length, count, steps, width = given[OWN + 4], given[OWN + 5], given[OWN + 6], given[OWN + 7], given[OWN + 8]
    batch_stride, head_stride, stride = given[OWN + 9], given[OWN + 10], given[OWN + 11]
    blocks, rows = -(-length // BLOCK), given[OWN + 12]
    key_tiles, value_tiles = -(-count // COLUMNS), -(-width // COLUMNS)
    room = key_tiles * COLUMNS  # for keys
    asked = scratch(given, address)
    scores = asked + BLOCK * steps * 4
    weights = scores + BLOCK * room * 4
    sums = weights + BLOCK * room * 2
    shares = carray(pointer(sums + BLOCK * COLUMNS * 4, F32), (BLOCK,))
    while True:
        job = next_job(address)
        if job >= rows * heads * blocks:
            return
        matrix, first = job // blocks, job % blocks * BLOCK
        row, head = matrix // heads, matrix % heads
        many = min(BLOCK, length - first)
        for i in range(many):
            source = q + row * batch_stride + head * head_stride + (first + i) * stride
            from_, to = carray(pointer(source, U32), (steps,)), carray(pointer(asked + i * steps * 4, U32), (steps,))
            for k in range(steps):
                to[k] = from_[k]
        for t in range(key_tiles):
            theirs = keys + (matrix * key_tiles + t) * steps * COLUMNS * 4
            _products(asked, steps * 4, theirs, scores + t * COLUMNS * 4, room * 4, steps)
        for i in range(many):
            seen = carray(pointer(scores + i * room * 4, F32), (room,))
            share = carray(pointer(weights + i * room * 2, U16), (room,))
            seen[count:] = -np.inf
            shares[i] = F32(1) / powers(seen, largest(seen), share)
        for t in range(value_tiles):
            theirs = values + (matrix * value_tiles + t) * room // PAIR * COLUMNS * 4
            _products(weights, room * 2, theirs, sums, COLUMNS * 4, room // PAIR)
            begin = t * COLUMNS
            for i in range(many):
                place = ((row * length + first + i) * heads + head) * width + begin
                found = carray(pointer(sums + i * COLUMNS * 4, F32), (COLUMNS,))
                y = carray(pointer(out + place * 4, F32), (min(COLUMNS, width - begin),))
                for j in range(len(y)):
                    y[j] = found[j] * shares[i]


@cfunc(SIGNATURE, cache=True)
def _kernel(given):  # type: ignore[no-untyped-def]
    _attend(carray(given, (OWN + 13,)), address_of(given))


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q k' scale) v, whose products are of bfloat16 and whose sums are of float32.

    Args:
        q: (B, h, L, d) of any type; d is even.
        k: (B, h, S, d).
        v: (B, h, S, e).
        scale: of the scores.

    Returns:
        (B, h, L, e) float32, a view of (B, L, h, e).
    """
    rows, heads, length, dim = q.shape
    count, width = k.shape[2], v.shape[3]
    asked = torch.mul(q, scale * math.log2(math.e)).to(torch.bfloat16)  # powers of two are quicker than those of e
    tiles, wide = -(-count // COLUMNS), -(-width // COLUMNS)
    # (B, h, S, d) -> (B, h, tiles, d / 2, 64 keys) of pairs
    keys = _filled(k, tiles * COLUMNS, dim).view(torch.int32)
    keys = keys.view(rows, heads, tiles, COLUMNS, dim // PAIR).transpose(3, 4).contiguous()
    # (B, h, S, e) -> (B, h, tiles, S / 2, 64 columns, 2)
    values = _filled(v, tiles * COLUMNS, wide * COLUMNS)
    values = values.view(rows, heads, -1, PAIR, wide, COLUMNS)
    values = torch.stack((values[:, :, :, 0], values[:, :, :, 1]), -1).transpose(2, 3).contiguous()
    out = torch.empty(rows, length, heads, width)
    numbers = [t.data_ptr() for t in (asked, keys, values, out)]
    numbers += [heads, length, count, dim // PAIR, width, *(2 * stride for stride in asked.stride()[:3]), rows]
    room = tiles * COLUMNS
    run(_kernel, numbers, BLOCK * (2 * dim + 4 * room + 2 * room + 4 * COLUMNS + 4))
    return out.transpose(1, 2)


def _filled(x: Tensor, count: int, width: int) -> Tensor:
    """x (B, h, S, d) in bfloat16, with zeros up to a count and a width."""
    if x.shape[2:] == (count, width):
        return x.to(torch.bfloat16).contiguous()
    y = torch.zeros(*x.shape[:2], count, width, dtype=torch.bfloat16)
    y[:, :, : x.shape[2], : x.shape[3]] = x
    return y
