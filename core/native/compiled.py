"""How functions are compiled, and on how many threads they run."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import torch

from core.simd.team import FAST_MATH

__all__ = ["as_written", "compiled", "in_parallel", "one_at_a_time"]

MOST_THREADS = numba.get_num_threads()  # before anybody has asked for fewer

_lock = threading.Lock()


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function of arrays at its first call; the result is kept on disk for later processes.

    What is kept knows of changes in the function's own file only: after one in a file that it calls, remove the
    ``__pycache__`` folders.
    """
    return numba.njit(fastmath=FAST_MATH, error_model="numpy", nogil=True, cache=True)(function)


def as_written(function: Callable[..., Any]) -> Any:
    """As :func:`compiled`, with every operation on floats as it is written: the same bits wherever it is called."""
    return numba.njit(error_model="numpy", nogil=True, cache=True)(function)


def in_parallel(function: Callable[..., Any]) -> Any:
    """As :func:`compiled`, with its ``prange`` loops spread over the threads of :func:`one_at_a_time`."""
    return numba.njit(fastmath=FAST_MATH, error_model="numpy", nogil=True, cache=True, parallel=True)(function)


@contextmanager
def one_at_a_time() -> Iterator[int]:
    """Run parallel functions on as many threads as PyTorch has, which is given.

    One caller at a time: not all of the thread pools that numba may find allow more.
    """
    threads = min(torch.get_num_threads(), MOST_THREADS)
    with _lock:
        numba.set_num_threads(threads)
        yield threads
