"""Audio that does not wait: what comes while somebody is busy is kept for them."""

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue

import torch
from torch import Tensor

__all__ = ["Latest"]


class Latest:
    """Blocks (n,) of a source that is read in a thread of its own; iterating gives all that has come since, at once.

    Args:
        source: gives blocks as they come.
        most: blocks that are kept; the source waits when they are not fetched.
    """

    def __init__(self, source: Iterable[Tensor], most: int = 600) -> None:
        self._blocks: SimpleQueue[Tensor | BaseException | None] = SimpleQueue()
        self._room = threading.Semaphore(most)
        threading.Thread(target=self._read, args=(source,), daemon=True).start()

    def close(self) -> None:
        """End the iteration after what has come until now. A signal handler may call this."""
        self._blocks.put(None)  # the put of a SimpleQueue may interrupt another

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            waiting = [self._blocks.get()]
            while not self._blocks.empty():
                waiting.append(self._blocks.get())
            came = []
            for item in waiting:
                if not isinstance(item, Tensor):
                    break
                self._room.release()
                came.append(item)
            if came:
                yield torch.cat(came)
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return

    def _read(self, source: Iterable[Tensor]) -> None:
        try:
            for block in source:
                self._room.acquire()
                self._blocks.put(block)
            self._blocks.put(None)
        except BaseException as error:  # told where the blocks are used
            self._blocks.put(error)
