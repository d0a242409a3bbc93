"""The order of samples and the randomness of each: pure functions of numbers, free of workers, ranks and library
versions.

Nothing here has a state. Which sample comes when follows from (seed, epoch, samples consumed); what happens to a sample
follows from its key, a hash of (seed, epoch, index). So a run that is stopped and resumed, or spread over more
processes or workers, sees the very same samples with the very same augmentation.

The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014). Its
output function is a bijection of 64-bit numbers, hence the keys of one epoch never collide and sorting by them is a
permutation.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from core.errors import InputError

__all__ = ["BatchOrder", "Order", "keys", "permutation", "splitmix64", "uniforms"]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1

Keys = np.ndarray  # (N,) uint64
Key = tuple[int, int]  # (epoch, index of the sample): what travels to a worker


def splitmix64(state: np.ndarray) -> np.ndarray:
    """The output of SplitMix64 for 64-bit states of any shape; the successor of a state is ``state + gamma``."""
    z = state + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def keys(seed: int, epoch: int, indices: np.ndarray) -> Keys:
    """One 64-bit key for each sample of an epoch: (N,) indices -> (N,) uint64, all different."""
    state = np.array([seed & _MASK], dtype=np.uint64)
    state = splitmix64(splitmix64(state) ^ np.uint64(epoch & _MASK))
    return splitmix64(state ^ np.asarray(indices).astype(np.uint64))


def uniforms(keys: Keys, draws: int) -> np.ndarray:
    """``draws`` numbers in [0, 1) for each key: (N,) uint64 -> (N, draws) float64."""
    steps = np.arange(draws, dtype=np.uint64) * _GAMMA
    return (splitmix64(keys[:, None] + steps[None, :]) >> np.uint64(11)) * 2.0**-53


def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of ``size`` samples in one epoch, (size,) int64."""
    return np.argsort(keys(seed, epoch, np.arange(size)), kind="stable")


class BatchOrder(ABC):
    """Which samples come in which batch, for one of several processes.

    Attributes:
        size: Number of samples.
        batch: How large a global batch is.
        seed: Of the shuffling.
    """

    size: int
    batch: int
    seed: int

    @property
    @abstractmethod
    def step(self) -> int:
        """How much a batch adds to what was consumed."""

    @abstractmethod
    def __len__(self) -> int:
        """Global batches in an epoch, the same on every rank."""

    @abstractmethod
    def batches(self, epoch: int, consumed: int = 0) -> Iterator[list[Key]]:
        """This rank's share, as (epoch, index) pairs, of each global batch after what was consumed."""


@dataclass(frozen=True)
class Order(BatchOrder):
    """Which samples come in which batch, for one of ``world`` processes.

    Every epoch is cut into global batches of ``batch`` samples, and rank r takes the r-th contiguous share of each,
    so that all processes together see exactly what one process would.

    Args:
        size: Number of samples.
        batch: Samples per global batch, over all processes.
        seed: Seed of the shuffling.
        shuffle: A new permutation each epoch (training) or the natural order (evaluation). In training the incomplete
            batch at the end of an epoch is left out (other samples each time); in evaluation every sample comes
            exactly once.
        rank, world: This process and how many there are.

    Raises:
        InputError: If the batch can't be divided among the processes, or there are fewer samples than one batch.
    """

    size: int
    batch: int
    seed: int = 0
    shuffle: bool = True
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.world < 1 or not 0 <= self.rank < self.world:
            raise InputError(f"batch {self.batch}, rank {self.rank} of {self.world} processes: all must be positive")
        if self.shuffle and self.batch % self.world:
            raise InputError(
                f"{self.world} processes can't share a global batch of {self.batch} equally: choose a multiple"
            )
        if self.shuffle and self.size < self.batch:
            raise InputError(
                f"{self.size} samples are fewer than one batch of {self.batch}: choose a smaller batch size"
            )

    def __len__(self) -> int:
        """Global batches in an epoch, the same on every rank."""
        return self.size // self.batch if self.shuffle else -(-self.size // self.batch)

    @property
    def step(self) -> int:
        """A batch consumes its samples."""
        return self.batch

    @property
    def samples(self) -> int:
        """Samples that all processes together consume in an epoch."""
        return len(self) * self.batch if self.shuffle else self.size

    def batches(self, epoch: int, consumed: int = 0) -> Iterator[list[Key]]:
        """This rank's share, as (epoch, index) pairs, of each global batch after the first ``consumed`` samples."""
        indices = permutation(self.size, self.seed, epoch) if self.shuffle else np.arange(self.size)
        for start in range(consumed, self.samples, self.batch):
            block = indices[start : start + self.batch]
            # ceil: the last block of an evaluation may be short; the first ranks then take more and the last may take
            # none
            share = -(-len(block) // self.world)
            mine = block[self.rank * share : (self.rank + 1) * share]
            yield [(epoch, int(index)) for index in mine]
