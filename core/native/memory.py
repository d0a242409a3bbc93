"""What a compiled decoder remembers: keys and values of the tokens so far, and of the memory that it looks at."""

from typing import NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor

from core.nn.cache import Cache

from .compiled import in_parallel, one_at_a_time

__all__ = ["Memory", "StepCache"]

STEPS = np.float32(127)  # codes are from -127 to 127
TINY = np.float32(1e-12)
LEAST_ROOM = 64  # tokens


class Memory(NamedTuple):
    """Keys and values of one layer's cross-attention, 8-bit integers with a scale for each head and token."""

    keys: np.ndarray  # (memories, h, S, d) int8
    key_scales: np.ndarray  # (memories, h, S) float32
    values: np.ndarray
    value_scales: np.ndarray

    @classmethod
    def empty(cls, memories: int, heads: int, size: int, head_dim: int) -> "Memory":
        """Room for `memories`, to be written by :meth:`write`."""
        shape = (memories, heads, size)
        keys, values = (np.empty((*shape, head_dim), np.int8) for _ in range(2))
        return cls(keys, np.empty(shape, np.float32), values, np.empty(shape, np.float32))

    def write(self, number: int, kv: Tensor) -> None:
        """Make float32 keys and values (S, 2 * h * d), the keys first, the memory of that number."""
        array = kv.numpy()
        with one_at_a_time():
            _write(array, 0, self.keys[number], self.key_scales[number])
            _write(array, array.shape[1] // 2, self.values[number], self.value_scales[number])


@in_parallel
def _write(kv, begin, codes, scales):  # type: ignore[no-untyped-def]
    heads, size, dim = codes.shape
    for t in prange(size):
        for head in range(heads):
            row = kv[t, begin + head * dim : begin + (head + 1) * dim]
            most = TINY
            for k in range(dim):
                most = max(most, abs(row[k]))
            scale = most / STEPS
            for k in range(dim):
                codes[head, t, k] = np.int8(np.rint(row[k] / scale))
            scales[head, t] = scale


class StepCache(Cache):
    """Of all layers of a decoder. Rows that see the same memory, as the beams of a window do, share it.

    Args:
        layers, groups, head_dim: of the keys and values of the self-attention.
    """

    def __init__(self, layers: int, groups: int, head_dim: int) -> None:
        super().__init__({})
        self.own = torch.empty(layers, 2, 0, groups, 0, head_dim)  # (layers, keys and values, B, groups, room, d)
        self.memories: list[Memory] = []  # of each layer that looks at one
        self.places = torch.empty(0, dtype=torch.long)  # which memory each row sees, (B,)
        self._length = 0

    @property
    def length(self) -> int:
        """How many tokens of each row it holds."""
        return self._length

    def make_room(self, rows: int, count: int) -> int:
        """Prepare for `count` more tokens of each of `rows`, and return how many there were before.

        Raises:
            ValueError: if there were other rows.
        """
        before, self._length = self._length, self._length + count
        if before and self.own.shape[2] != rows:
            raise ValueError(f"a cache of {self.own.shape[2]} rows was given {rows}")
        if self.own.shape[4] < self._length or self.own.shape[2] != rows:
            self._copy(slice(None), rows, max(LEAST_ROOM, 2 * self.own.shape[4], self._length), before)
        return before

    def reorder(self, rows: Tensor) -> None:
        """Continue with the given rows (new B,)."""
        self._copy(rows, len(rows), self.own.shape[4], self._length)
        self.places = self.places[rows]

    def swap(self, rows: Tensor) -> None:
        """As :meth:`reorder`: nothing of the memory is copied anyway."""
        self.reorder(rows)

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        self._length = min(length, self._length)

    def _copy(self, picked: slice | Tensor, rows: int, room: int, length: int) -> None:
        layers, two, _, groups, _, head_dim = self.own.shape
        larger = self.own.new_empty(layers, two, rows, groups, room, head_dim)
        if length:
            larger[..., :length, :] = self.own[:, :, picked, :, :length]
        self.own = larger
