"""What a run costs, here or in a process of its own.

A peer that brings threads of its own is measured apart. OpenMP's pools in one process know of each other: with more
threads than cores those that wait go to sleep at once, and everybody's steps of a few microseconds get much slower, the
peer's too.
"""

import ctypes
import gc
import multiprocessing
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

__all__ = ["Apart", "peak", "timed"]

Run = Callable[[], Any]


class Apart:
    """A run that happens in a process of its own, on as many threads as this one has.

    Args:
        make: returns the run; it is pickled, so a function of a module, or a `functools.partial` of one.

    Raises:
        RuntimeError: from a call, with what went wrong there.
    """

    def __init__(self, make: Callable[[], Run]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, make, torch.get_num_threads()), daemon=True).start()
        theirs.close()

    def __call__(self) -> Any:
        """Run, and return the output."""
        return self._ask("output")

    def timed(self) -> float:
        """Seconds for one run, without the way here and back."""
        seconds: float = self._ask("timed")
        return seconds

    def peak(self) -> float | None:
        """As the function :func:`peak`, of that process."""
        mebibytes: float | None = self._ask("peak")
        return mebibytes

    def _ask(self, what: str) -> Any:
        self._pipe.send(what)
        answer, failure = self._pipe.recv()
        if failure is not None:
            raise RuntimeError(f"the process apart failed:\n{failure}")
        return answer


def _serve(pipe: Connection, make: Callable[[], Run], threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    run: Run | None = None
    while True:
        try:
            asked = pipe.recv()
        except EOFError:  # the other end is gone
            return
        try:
            run = make() if run is None else run
            pipe.send((run() if asked == "output" else timed(run) if asked == "timed" else peak(run), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))


def timed(run: Run) -> float:
    """Seconds for one run."""
    if isinstance(run, Apart):
        return run.timed()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak(run: Run) -> float | None:
    """MiB that one run needs at most beside what is held before it; None where the system doesn't tell (Linux does)."""
    if isinstance(run, Apart):
        return run.peak()
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what others left behind would hide what the run needs
    before = resident("VmRSS")
    reset.write_text("5")  # the peak starts anew
    run()
    return (resident("VmHWM") - before) / 2**20


def resident(field: str) -> int:
    """Bytes of this process's memory: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
