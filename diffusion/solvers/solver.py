"""The loop from noise to data, which every solver fills with its own step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from core.errors import InputError
from diffusion.process import Process

__all__ = ["Constrain", "Denoise", "Draw", "Solver", "State", "Stepwise", "checked"]

Draw = Callable[[], Tensor]


class Denoise(Protocol):
    """A model with all that it is told but x and t: guidance and condition are inside."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """Return the model's output for x (B, C, H, W) at the time t ()."""


class Constrain(Protocol):
    """What is done to x after each step, as in inpainting."""

    def __call__(self, x: Tensor, t: float, /) -> Tensor:
        """Return what x (B, C, H, W) at the time t becomes; at the process's end it is clean."""


@dataclass(frozen=True)
class State:
    """Where a solver is after a step.

    Attributes:
        number: of the step, from 0.
        count: of all steps.
        t: the time that was reached.
        x: (B, C, H, W) at that time.
        clean: (B, C, H, W) the clean data that the model spoke of in this step.
    """

    number: int
    count: int
    t: float
    x: Tensor
    clean: Tensor


class Solver(ABC):
    """Goes from noise to data in steps.

    Attributes:
        process: what the model was trained on.
        count: of the steps.
        times: the times at which the model is asked, in order: (count,), or more if a step asks more than once.
    """

    process: Process
    count: int
    times: Tensor

    @abstractmethod
    def __call__(
        self, denoise: Denoise, x: Tensor, noise: Draw, start: int = 0, constrain: Constrain | None = None
    ) -> Iterator[State]:
        """Take one step after the other.

        Args:
            denoise: the model.
            x: (B, C, H, W) float32: noise, or what `noised` returned for `start`.
            noise: returns fresh standard noise of x's shape; called once in every step that is random.
            start: the first step to take.
            constrain: applied to x after each step.
        """

    @abstractmethod
    def noised(self, x0: Tensor, noise: Tensor, number: int) -> Tensor:
        """Return clean data and noise (B, C, H, W) mixed as step `number` expects x."""

    def start(self, strength: float) -> int:
        """Return the first step for an image that `strength`, above 0 to 1, of the way to noise is to be undone of.

        Raises:
            InputError: if the strength is out of range, or so small that not one step is left.
        """
        if not 0 < strength <= 1:
            raise InputError(f"strength {strength}: expected above 0, at most 1 (1 keeps nothing of the image)")
        taken = int(self.count * strength + 1e-6)
        if taken < 1:
            raise InputError(f"strength {strength} of {self.count} steps is less than one step: take more of either")
        return self.count - taken


class Stepwise(Solver):
    """A solver whose steps know nothing of each other.

    Args:
        process: what the model was trained on.
        marks: the times that the steps lead from and to, count + 1 of them.
    """

    def __init__(self, process: Process, marks: Sequence[float]) -> None:
        self.process = process
        self.marks = tuple(float(mark) for mark in marks)
        self.count = len(self.marks) - 1
        self.times = torch.tensor(self.marks[:-1])

    def __call__(
        self, denoise: Denoise, x: Tensor, noise: Draw, start: int = 0, constrain: Constrain | None = None
    ) -> Iterator[State]:
        """See :class:`Solver`."""
        for number in range(start, self.count):
            x, clean = self.step(denoise, x, number, noise)
            t = self.marks[number + 1]
            if constrain is not None:
                x = constrain(x, t)
            yield State(number, self.count, t, x, clean)

    def noised(self, x0: Tensor, noise: Tensor, number: int) -> Tensor:
        """See :class:`Solver`."""
        return self.process.noised(x0, noise, self.marks[number])

    @abstractmethod
    def step(self, denoise: Denoise, x: Tensor, number: int, noise: Draw) -> tuple[Tensor, Tensor]:
        """Take step `number` from x; return the new x and the clean data that the model spoke of."""

    def ask(self, denoise: Denoise, x: Tensor, t: float) -> Tensor:
        """Return the model's output for x at the time t, in x's type."""
        return denoise(x, torch.tensor(t, dtype=torch.float32, device=x.device)).to(x.dtype)


def checked(steps: int, most: int | None = None) -> int:
    """Return the number of steps if there can be so many.

    Raises:
        InputError: otherwise.
    """
    if steps < 1 or (most is not None and steps > most):
        expected = "1 or more" if most is None else f"1 to {most}, which the model was trained with"
        raise InputError(f"{steps} steps: expected {expected}")
    return steps
