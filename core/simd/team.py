"""Compiled functions on PyTorch's own threads: a second pool would fight with it for the cores.

A kernel is given an array of 64-bit integers: counters and scratch memory in the first few places, from ``OWN`` on what
the caller has put there. Each thread takes the next job until there is none: a core that has other things to do holds
nobody up.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import binding
from numba import njit, types

from .tile import fetch_add

__all__ = ["FAST_MATH", "OWN", "SIGNATURE", "compiled", "next_job", "run", "scratch"]

JOBS, MEMBERS, SCRATCH, SIZE, OWN = 0, 1, 2, 3, 4
# sums may be reordered into vectors; infinities and NaN keep their meaning
FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}

binding.initialize_native_asmparser()  # tiles are written in the processor's instructions

compiled = njit(fastmath=FAST_MATH, error_model="numpy", nogil=True)


# of a kernel: numba.cfunc(SIGNATURE, cache=True). What is kept on disk knows of changes in the kernel's own file only:
# after one in rows.py or tile.py, remove core/simd/__pycache__
SIGNATURE = types.void(types.CPointer(types.int64))


@compiled
def next_job(address):  # type: ignore[no-untyped-def]
    """The number of the next job that nobody has taken: from 0."""
    return fetch_add(address + 8 * JOBS)


@compiled
def scratch(given, address):  # type: ignore[no-untyped-def]
    """The address of memory for the calling thread alone; to be asked for once in a call."""
    return given[SCRATCH] + fetch_add(address + 8 * MEMBERS) * given[SIZE]


def run(entry: Any, numbers: Sequence[int], size: int) -> None:
    """Run a kernel on as many threads as PyTorch has.

    Args:
        entry: compiled with ``SIGNATURE``.
        numbers: its own: sizes, and addresses of what the caller keeps alive.
        size: bytes of scratch memory for each thread.
    """
    threads = torch.get_num_threads()
    size = -(-size // 64) * 64
    room = torch.empty(size * threads + 64, dtype=torch.uint8)
    given = np.array([0, 0, -(-room.data_ptr() // 64) * 64, size, *numbers], dtype=np.int64)
    _parallel()(ctypes.c_void_p(entry.address), ctypes.c_void_p(given.ctypes.data), threads, 0)


@cache
def _parallel() -> Any:
    """The OpenMP library that PyTorch has loaded: ``GOMP_parallel(function, argument, threads, flags)``."""
    found = ctypes.CDLL(None).GOMP_parallel
    found.restype = None
    return found
