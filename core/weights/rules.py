"""What can stand on the right of a name table: how one tensor of theirs becomes tensors of ours, and back."""

from copy import copy
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "ZEROS",
    "Derived",
    "Fixed",
    "Rename",
    "Reshape",
    "Rule",
    "Split",
    "SplitColumns",
    "Squeeze",
    "Tied",
    "Transpose",
    "Zeros",
]

ZEROS = "zeros"
"""A part of a :class:`Split` that ours doesn't have because it must be zero (the key bias of Whisper)."""


class Rule:
    """One tensor of theirs that is made of tensors of ours.

    Attributes:
        ours: name patterns of our tensors, in order.
    """

    def __init__(self, *ours: str) -> None:
        self.ours = ours

    def load(self, theirs: Tensor) -> tuple[Tensor, ...]:
        """Return our tensors.

        Raises:
            ValueError: if the shape does not allow it.
        """
        raise NotImplementedError

    def export(self, *ours: Tensor) -> Tensor:
        """Undo :meth:`load`."""
        raise NotImplementedError

    def flaw(self, theirs: Tensor) -> str | None:
        """Return what is wrong with the values, or None."""
        return None

    def within(self, prefix: str) -> "Rule":
        """Return the rule for the same tensors inside a larger model, where their names begin with ``prefix``."""
        moved = copy(self)
        moved.ours = tuple(prefix + name for name in self.ours)
        return moved


class Rename(Rule):
    """The same tensor under another name; in a table a plain string."""

    def load(self, theirs: Tensor) -> tuple[Tensor, ...]:
        """Return it as it is."""
        return (theirs,)

    def export(self, *ours: Tensor) -> Tensor:
        """Return it as it is."""
        return ours[0]


class Transpose(Rule):
    """The same matrix with its axes exchanged (GPT-2's linear layers)."""

    def load(self, theirs: Tensor) -> tuple[Tensor, ...]:
        """Return it transposed."""
        if theirs.ndim != 2:
            raise ValueError(f"{tuple(theirs.shape)} is no matrix")
        return (theirs.T,)

    def export(self, *ours: Tensor) -> Tensor:
        """Return it transposed."""
        return ours[0].T


class Squeeze(Rule):
    """The same tensor without its first axis, which is 1: a table (1, L, D) as (L, D)."""

    def load(self, theirs: Tensor) -> tuple[Tensor, ...]:
        """Return it without the axis."""
        if theirs.ndim == 0 or theirs.shape[0] != 1:
            raise ValueError(f"{tuple(theirs.shape)} has no first axis of 1")
        return (theirs[0],)

    def export(self, *ours: Tensor) -> Tensor:
        """Return it with the axis."""
        return ours[0][None]


class Reshape(Rule):
    """The same values in another shape, e.g. a kernel (D, C, p, p) as (D, C*p*p).

    Args:
        name: of our tensor.
        theirs: their shape; -1 once, where the size depends on the model.
        ours: our shape, likewise.
    """

    def __init__(self, name: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> None:
        super().__init__(name)
        self.shapes = theirs, ours

    def load(self, theirs: Tensor) -> tuple[Tensor, ...]:
        """Return it in our shape."""
        return (_reshape(theirs, *self.shapes),)

    def export(self, *ours: Tensor) -> Tensor:
        """Return it in their shape."""
        return _reshape(ours[0], *reversed(self.shapes))


class Split(Rule):
    """A fused tensor (qkv, kv, gate and up) and its equal parts along the first axis.

    A part named :data:`ZEROS` must be zero on load, is left away, and is zero again on export.
    """

    def __init__(self, *parts: str) -> None:
        super().__init__(*(part for part in parts if part != ZEROS))
        self.parts = parts

    def load(self, theirs: Tensor) -> tuple[Tensor, ...]:
        """Return the parts that ours has."""
        return tuple(chunk for part, chunk in self._chunks(theirs) if part != ZEROS)

    def export(self, *ours: Tensor) -> Tensor:
        """Join the parts."""
        given = iter(ours)
        return torch.cat([torch.zeros_like(ours[0]) if part == ZEROS else next(given) for part in self.parts])

    def flaw(self, theirs: Tensor) -> str | None:
        """The parts that ours doesn't have must be zero."""
        full = any(bool(chunk.any()) for part, chunk in self._chunks(theirs) if part == ZEROS)
        return "should be zero in the part that has no place here" if full else None

    def within(self, prefix: str) -> "Split":
        """As of any rule; the zeros keep their name."""
        return Split(*(part if part == ZEROS else prefix + part for part in self.parts))

    def _chunks(self, theirs: Tensor) -> list[tuple[str, Tensor]]:
        if theirs.ndim == 0 or theirs.shape[0] % len(self.parts):
            raise ValueError(f"{tuple(theirs.shape)} can't be split in {len(self.parts)} equal parts")
        return list(zip(self.parts, theirs.chunk(len(self.parts)), strict=True))


class SplitColumns(Rule):
    """A fused matrix (in, parts * out), cut along its last axis into parts (out, in): GPT-2's query, key and value."""

    def load(self, theirs: Tensor) -> tuple[Tensor, ...]:
        """Return the parts, transposed."""
        if theirs.ndim != 2 or theirs.shape[1] % len(self.ours):
            raise ValueError(f"{tuple(theirs.shape)} can't be split in {len(self.ours)} equal parts of columns")
        return tuple(part.T for part in theirs.chunk(len(self.ours), 1))

    def export(self, *ours: Tensor) -> Tensor:
        """Join the parts."""
        return torch.cat([part.T for part in ours], 1)


def _reshape(x: Tensor, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
    if x.ndim != len(before) or any(want not in (-1, size) for want, size in zip(before, x.shape, strict=True)):
        raise ValueError(f"{tuple(x.shape)} is not of the form {before}")
    return x.reshape(after)


class Derived:
    """A tensor of theirs that holds nothing new: checked on load, made again on export if the source had it.

    Args:
        of: name pattern of the tensor of theirs that it follows from, with the placeholders of its own name.
    """

    def __init__(self, of: str | None = None) -> None:
        self.of = of

    def make(self, twin: Tensor | None) -> Tensor:
        """Return the tensor, given the one that it follows from."""
        raise NotImplementedError

    def flaw(self, theirs: Tensor, twin: Tensor | None) -> str | None:
        """Return what is wrong with the tensor, given the one that it follows from, or None."""
        raise NotImplementedError


class Tied(Derived):
    """The same tensor as another of theirs (an output layer that is the embedding)."""

    def make(self, twin: Tensor | None) -> Tensor:
        """Return the other tensor."""
        assert twin is not None
        return twin

    def flaw(self, theirs: Tensor, twin: Tensor | None) -> str | None:
        """Both must be equal."""
        if twin is None or theirs.shape != twin.shape or theirs.dtype != twin.dtype:
            return f"should equal {self.of}"
        same = theirs.data_ptr() == twin.data_ptr() or torch.equal(theirs, twin)
        return None if same else f"should equal {self.of}"


class Zeros(Derived):
    """Zeros in the shape of another tensor of theirs."""

    def make(self, twin: Tensor | None) -> Tensor:
        """Return the zeros."""
        assert twin is not None
        return torch.zeros_like(twin)

    def flaw(self, theirs: Tensor, twin: Tensor | None) -> str | None:
        """It must be zero, in that shape."""
        if twin is None or theirs.shape != twin.shape:
            return f"should have the shape of {self.of}"
        return "should be zero" if bool(theirs.any()) else None


class Fixed(Derived):
    """A setting that the format keeps among the tensors and that our model has built in.

    Args:
        value: a number, or nested lists of them.
        dtype: of the tensor.
    """

    def __init__(self, value: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.tensor = torch.tensor(value, dtype=dtype)

    def make(self, twin: Tensor | None) -> Tensor:
        """Return it as a tensor."""
        return self.tensor.clone()

    def flaw(self, theirs: Tensor, twin: Tensor | None) -> str | None:
        """It must have the value."""
        same = theirs.shape == self.tensor.shape and theirs.tolist() == self.tensor.tolist()
        return None if same else f"should be {self.tensor.tolist()}"
