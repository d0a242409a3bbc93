"""Batches of samples of about the same length, so that little of a batch is padding."""

from collections.abc import Iterator, Sequence

import numpy as np

from core.data.order import BatchOrder, Key, permutation
from core.errors import InputError

__all__ = ["LengthOrder"]

_BUCKETS = 2  # what is mixed with the seed of the order within buckets, so that no two permutations are alike


class LengthOrder(BatchOrder):
    """Samples sorted into buckets by their length; a batch is of one bucket and, padded, never more than a budget.

    A bucket has as many samples to a batch as fit at its greatest length. Every epoch shuffles the samples within each
    bucket, leaves out its incomplete batch (other samples each time), and shuffles the batches of all buckets. So the
    number of batches is the same in every epoch, and which samples are in which follows from (seed, epoch) alone:
    stopped and resumed is not stopped, and all processes together see what one would.

    Args:
        lengths: Of each sample, in any unit, such as seconds.
        budget: The most that a global batch may hold, in this unit: samples times the longest of them.
        seed: Of the shuffling.
        buckets: How many, with as many samples in each.
        most: The most samples in a batch, however short they are.
        multiple: What the number of samples in a batch is a multiple of; so many processes, or a part of so many, see
            the same batches. By default the number of processes.
        rank, world: This process and how many there are.

    Raises:
        InputError: If the processes can't share the batches equally, a sample is longer than the budget, or there is no
            complete batch.
    """

    def __init__(
        self,
        lengths: Sequence[float] | np.ndarray,
        budget: float,
        seed: int = 0,
        buckets: int = 10,
        most: int = 1024,
        multiple: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        least = multiple or world
        if buckets < 1 or most < least or not 0 <= rank < world:
            raise InputError(f"buckets {buckets} must be at least 1, and most {most} at least {least}")
        if least % world:
            raise InputError(f"{world} processes can't share batches of a multiple of {least} equally")
        found = np.asarray(lengths, np.float64)
        if not len(found) or not np.isfinite(found).all() or found.min() <= 0:
            raise InputError("batches by length need the lengths of all samples, each above 0")
        if found.max() * least > budget:
            raise InputError(
                f"the longest sample has a length of {found.max():.4g}: {least} of them, the least in a batch, are "
                f"more than its budget, {budget:g}"
            )
        self.size, self.batch, self.seed = len(found), round(budget), seed
        self.rank, self.world = rank, world
        ordered = np.argsort(found, kind="stable")
        self._buckets = [np.sort(part) for part in np.array_split(ordered, min(buckets, len(found))) if len(part)]
        self._sizes = [min(int(budget / found[part].max()), most, len(part)) // least * least for part in self._buckets]
        self._count = sum(len(part) // size for part, size in self._filled())
        if not self._count:
            raise InputError(f"{len(found)} samples in {buckets} buckets make no batch for {world} processes")

    @property
    def step(self) -> int:
        """Batches are counted, since they differ in size."""
        return 1

    def __len__(self) -> int:
        return self._count

    def batches(self, epoch: int, consumed: int = 0) -> Iterator[list[Key]]:
        """This rank's share, as (epoch, index) pairs, of each global batch after the first ``consumed``."""
        cut: list[np.ndarray] = []
        for number, (part, size) in enumerate(self._filled()):
            mixed = part[permutation(len(part), self.seed + _BUCKETS + number, epoch)]
            cut += np.split(mixed[: len(part) // size * size], len(part) // size)
        for place in permutation(len(cut), self.seed, epoch)[consumed:]:
            share = len(cut[place]) // self.world
            yield [(epoch, int(index)) for index in cut[place][self.rank * share : (self.rank + 1) * share]]

    def _filled(self) -> list[tuple[np.ndarray, int]]:
        return [(part, size) for part, size in zip(self._buckets, self._sizes, strict=True) if size]
