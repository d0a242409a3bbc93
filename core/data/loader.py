"""Loaders that hand out batches in the order of ``order.py`` and know how far they are.

Not torch's DataLoader itself but a thin shell around it: a trainer that finds a DataLoader replaces its sampler, and
torch's own position is where the prefetching workers are, not where the training is.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from core.data.order import BatchOrder, Key
from core.errors import InputError

__all__ = ["Loader", "TrainLoader"]


class Examples(Protocol):
    """What a loader reads from: whole batches by key."""

    def __getitems__(self, keys: list[Key]) -> Any:
        """The collated batch for (epoch, index) pairs; it may be empty."""


class Loader:
    """Every batch of ``order`` once, always from the beginning: for evaluation.

    Args:
        examples: Gives the collated batch for a list of keys.
        order: Which keys, in which order.
        workers: Processes that read ahead; 0 reads in the calling thread, which is best for data in memory.
        pin: Page-locked memory, for a faster copy to a GPU.
    """

    def __init__(self, examples: Examples, order: BatchOrder, workers: int = 0, pin: bool = False) -> None:
        self.order = order
        self._position = _Position(order)
        self._loader: DataLoader[Any] = DataLoader(
            _Whole(examples),
            batch_sampler=self._position,
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin,
            # its own generator: making an iterator must not draw from the global one, else a resumed run diverges
            generator=torch.Generator().manual_seed(0),
        )

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches():
            if batch is not None:
                yield batch

    def _batches(self) -> Iterator[Any]:
        for batch in self._loader:
            if isinstance(batch, InputError):
                self._loader._iterator = None  # lets the reading processes go
                try:
                    raise batch
                finally:
                    del batch  # an error that is a local of its own traceback would keep everything alive
            yield batch

    @property
    def _iterator(self) -> Any:
        """The workers' side; Lightning looks for this name when it is done, to shut the workers down at once."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._loader._iterator = iterator


class TrainLoader(Loader):
    """A loader that can be stopped and resumed at any batch, on any number of processes and workers.

    Its position is an epoch, set from outside (``set_epoch``), and how much of this epoch was handed out, over all
    processes: samples, or batches where these differ in size. Iteration starts at the position when the first batch is
    asked for, not when the iterator is made, since trainers make the iterator before they have restored the epoch.
    """

    @property
    def sampler(self) -> "TrainLoader":
        """Itself: trainers call ``loader.sampler.set_epoch(epoch)``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; nothing happens if this is the current one."""
        if epoch != self._position.epoch:
            self._position.epoch, self._position.consumed = epoch, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches():
            # before the yield: while this batch is trained on, and perhaps a checkpoint written, it counts as consumed
            self._position.consumed += self.order.step
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position, free of ranks and workers."""
        order, at = self.order, self._position
        state = {"epoch": at.epoch, "consumed": at.consumed}
        return {**state, "size": order.size, "batch": order.batch, "seed": order.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position.

        Raises:
            InputError: If the data, the global batch or the seed are others than those of the position.
        """
        for name, now in (("size", self.order.size), ("batch", self.order.batch), ("seed", self.order.seed)):
            if state[name] != now:
                raise InputError(
                    f"the checkpoint was written with data {name} {state[name]}, now it is {now}: resume with the same"
                )
        self._position.epoch, self._position.consumed = state["epoch"], state["consumed"]


class _Position:
    """How far a loader is, as the batch sampler of a DataLoader: at the moment of asking, the keys that are to come."""

    def __init__(self, order: BatchOrder) -> None:
        self.order = order
        self.epoch = 0
        self.consumed = 0

    def __iter__(self) -> Iterator[list[Key]]:
        return self.order.batches(self.epoch, self.consumed)

    def __len__(self) -> int:
        return len(self.order)


class _Whole(Dataset[Any]):
    """Examples as a dataset whose batches are fetched whole.

    An empty share (end of an evaluation) becomes None. An InputError is handed over as it is: DataLoader would make the
    traceback of the reading process a part of its message.
    """

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitems__(self, keys: list[Key]) -> Any:
        try:
            return self.examples.__getitems__(keys) if keys else None
        except InputError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch
