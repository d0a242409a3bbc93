"""Key/value caches: what attention has computed before and need not compute again.

A :class:`Slot` belongs to one attention. It is given the new keys and values and returns all that the queries may look
at. A :class:`Cache` is the tree of the slots of a stack; it travels in ``Ctx.cache``. Slots are for inference: they
keep no gradients.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .context import Tokens

__all__ = ["Cache", "Growing", "Make", "Once", "Ring", "Slot", "Static"]

Make = Callable[[], tuple[Tensor, Tensor, Tokens]]


class Slot:
    """The memory of one attention. Keys and values have shape (B, groups, S, d)."""

    length: int | Tensor = 0
    """How many tokens it has been given so far."""

    def place(self, tokens: Tokens, count: int, device: torch.device) -> Tokens:
        """Return the tokens of the next ``count`` queries as the mask needs them beside this slot's keys."""
        return tokens

    def read(self, make: Make) -> tuple[Tensor, Tensor, Tokens]:
        """Add what ``make()`` returns and return the keys, values and tokens that may be attended to."""
        raise NotImplementedError

    def reorder(self, rows: Tensor) -> None:
        """Continue with the given rows of the batch (beam search): ``rows`` (new B,) integers."""
        raise NotImplementedError

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first ``length`` (speculative decoding).

        Raises:
            TypeError: if the slot can't, because it forgets by itself.
        """
        raise TypeError(f"a {type(self).__name__} slot can't be truncated: use Growing or Static slots")


class Growing(Slot):
    """Keeps everything, in buffers that double when they are full, so that a step copies only its own tokens."""

    def __init__(self, room: int = 64) -> None:
        self.length: int = 0
        self._room = room
        self._k: Tensor | None = None
        self._v: Tensor | None = None
        self._tokens = Tokens()

    def read(self, make: Make) -> tuple[Tensor, Tensor, Tokens]:
        """Append, and return all."""
        k, v, tokens = make()
        start, self.length = self.length, self.length + k.shape[2]
        self._k = self._append(self._k, k, start)
        self._v = self._append(self._v, v, start)
        self._tokens = _joined(self._tokens, tokens, first=start == 0)
        return self._k[:, :, : self.length], self._v[:, :, : self.length], self._tokens

    def reorder(self, rows: Tensor) -> None:
        """Pick rows."""
        if self._k is not None and self._v is not None:
            self._k, self._v = self._k[rows], self._v[rows]
            self._tokens = _picked(self._tokens, rows)

    def truncate(self, length: int) -> None:
        """Forget the rest; the buffers stay."""
        self.length = min(length, self.length)
        self._tokens = self._tokens.map(lambda fact: fact[:, : self.length])

    def _append(self, buffer: Tensor | None, new: Tensor, start: int) -> Tensor:
        end = start + new.shape[2]
        if buffer is None or buffer.shape[2] < end:
            room = max(self._room, end if buffer is None else 2 * buffer.shape[2], end)
            larger = new.new_empty(*new.shape[:2], room, new.shape[3])
            if buffer is not None:
                larger[:, :, :start] = buffer[:, :, :start]
            buffer = larger
        buffer[:, :, start:end] = new.detach()
        return buffer


class Static(Slot):
    """Keeps up to ``size`` tokens in buffers whose shapes never change: for ``torch.compile`` and CUDA graphs."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.length: int | Tensor = 0
        self._k: Tensor | None = None
        self._v: Tensor | None = None
        self._index: Tensor | None = None
        self._segment: Tensor | None = None
        self._coords: Tensor | None = None

    def allocate(self, rows: int, groups: int, key_dim: int, value_dim: int, like: Tensor) -> None:
        """Make the buffers, with the dtype and device of ``like``; done by the first read otherwise."""
        self._k = like.new_zeros(rows, groups, self.size, key_dim)
        self._v = like.new_zeros(rows, groups, self.size, value_dim)
        self._index = torch.full((rows, self.size), -1, device=like.device)
        self.length = torch.zeros((), dtype=torch.long, device=like.device)

    def place(self, tokens: Tokens, count: int, device: torch.device) -> Tokens:
        """Number the new tokens on from those before, where they have no order of their own."""
        if tokens.index is not None:
            return tokens
        return tokens._replace(index=(torch.arange(count, device=device) + self.length)[None])

    def read(self, make: Make) -> tuple[Tensor, Tensor, Tokens]:
        """Write in place, and return the whole buffers; what was never written has index -1.

        Raises:
            IndexError: if more is written than there is room for (on CUDA, a device assertion).
            ValueError: if segments or coords come with some of the calls only.
        """
        k, v, tokens = make()
        if self._k is None:
            self.allocate(k.shape[0], k.shape[1], k.shape[3], v.shape[3], k)
            self._segment, self._coords = self._room(tokens.segment), self._room(tokens.coords)
        index = tokens.index
        assert self._k is not None and self._v is not None and self._index is not None and index is not None  # noqa: PT018
        at = torch.arange(k.shape[2], device=k.device) + self.length
        self._k.index_copy_(2, at, k.detach())
        self._v.index_copy_(2, at, v.detach())
        self._index.index_copy_(1, at, index.expand(k.shape[0], -1))
        for name, buffer, fact in (("segment", self._segment, tokens.segment), ("coords", self._coords, tokens.coords)):
            if (buffer is None) != (fact is None):
                raise ValueError(f"tokens.{name} must be given on every call with the same cache, or on none")
            if buffer is not None and fact is not None:
                buffer.index_copy_(1, at, fact.expand(k.shape[0], *fact.shape[1:]))
        self.length = self.length + k.shape[2]
        return self._k, self._v, Tokens(self._index, self._segment, self._coords)

    def reorder(self, rows: Tensor) -> None:
        """Pick rows."""
        if self._k is not None and self._v is not None and self._index is not None:
            self._k, self._v, self._index = self._k[rows], self._v[rows], self._index[rows]
            self._segment = None if self._segment is None else self._segment[rows]
            self._coords = None if self._coords is None else self._coords[rows]

    def truncate(self, length: int) -> None:
        """Forget the rest: what is written next takes its place."""
        if self._index is not None:
            self._index[:, length:] = -1
            self.length = torch.as_tensor(self.length).clamp(max=length)

    def flatten(self) -> tuple[list[Any], int]:
        """Return the tensors, and what else it takes to :meth:`build` the slot again."""
        return [self._k, self._v, self._index, self._segment, self._coords, self.length], self.size

    @classmethod
    def build(cls, parts: Iterable[Any], size: int) -> "Static":
        """Undo :meth:`flatten`."""
        slot = cls(size)
        slot._k, slot._v, slot._index, slot._segment, slot._coords, slot.length = parts
        return slot

    def _room(self, fact: Tensor | None) -> Tensor | None:
        if fact is None or self._k is None:
            return None
        return fact.new_zeros(self._k.shape[0], self.size, *fact.shape[2:])


class Ring(Slot):
    """Keeps the first ``sinks`` and the last ``window`` tokens: endless decoding in bounded memory.

    Exact for attention under ``Causal() & Window(window, sinks)``. Keys keep the positions that they had.
    """

    def __init__(self, window: int, sinks: int = 0) -> None:
        self.window = window
        self.sinks = sinks
        self.length: int = 0
        self._k: Tensor | None = None
        self._v: Tensor | None = None
        self._tokens = Tokens()

    def place(self, tokens: Tokens, count: int, device: torch.device) -> Tokens:
        """Number the new tokens on from those before, where they have no order of their own."""
        if tokens.index is not None:
            return tokens
        return tokens._replace(index=torch.arange(self.length, self.length + count, device=device)[None])

    def read(self, make: Make) -> tuple[Tensor, Tensor, Tokens]:
        """Return what was kept and all that is new (early queries need what late ones push out), then forget."""
        k, v, tokens = make()
        if self._k is not None and self._v is not None:
            k, v = torch.cat([self._k, k], 2), torch.cat([self._v, v], 2)
            tokens = _joined(self._tokens, tokens, first=False)
        self.length += k.shape[2] - (0 if self._k is None else self._k.shape[2])
        self._k, self._v = self._forget(k.detach(), 2), self._forget(v.detach(), 2)
        self._tokens = tokens.map(lambda fact: self._forget(fact, 1))
        return k, v, tokens

    def reorder(self, rows: Tensor) -> None:
        """Pick rows."""
        if self._k is not None and self._v is not None:
            self._k, self._v, self._tokens = self._k[rows], self._v[rows], _picked(self._tokens, rows)

    def _forget(self, x: Tensor, dim: int) -> Tensor:
        size = x.shape[dim]
        if size <= self.window + self.sinks:
            return x
        return torch.cat([x.narrow(dim, 0, self.sinks), x.narrow(dim, size - self.window, self.window)], dim)


class Once(Slot):
    """Cross-attention: keys and values of the memory, computed by the first call only."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, Tensor, Tokens] | None = None

    def read(self, make: Make) -> tuple[Tensor, Tensor, Tokens]:
        """Return what the first call made."""
        if self._held is None:
            k, v, tokens = make()
            # contiguous: every later step reads all of it (-15 to -26 % time per token)
            self._held = k.detach().contiguous(), v.detach().contiguous(), tokens
        return self._held

    def reorder(self, rows: Tensor) -> None:
        """Pick rows."""
        if self._held is not None:
            k, v, tokens = self._held
            self._held = k[rows], v[rows], _picked(tokens, rows)

    def truncate(self, length: int) -> None:
        """Keep all: it is none of the tokens."""

    def flatten(self) -> tuple[list[Any], None]:
        """Return the tensors, of which there are none before the first call; packed rows lose their host lengths."""
        return [] if self._held is None else [*self._held[:2], *self._held[2][:3]], None

    @classmethod
    def build(cls, parts: Iterable[Any], context: None) -> "Once":
        """Undo :meth:`flatten`."""
        slot = cls()
        held = list(parts)
        slot._held = (held[0], held[1], Tokens(*held[2:])) if held else None
        return slot


class Cache(Mapping[Any, dict[Any, Any]]):
    """The slots of a stack, ``{block: {branch: Slot}}``, deeper in a ``Repeat``; made by ``Stack.cache()``.

    Not a dict, which FSDP2's casts would replace by a plain one.
    """

    def __init__(self, slots: Mapping[Any, dict[Any, Any]]) -> None:
        self._slots = dict(slots)

    def __getitem__(self, block: Any) -> dict[Any, Any]:
        return self._slots[block]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def slots(self) -> Iterator[Slot]:
        """Yield every slot."""
        yield from _leaves(self)

    @property
    def length(self) -> int | Tensor:
        """How many tokens the self-attention has been given so far."""
        return next((slot.length for slot in self.slots() if not isinstance(slot, Once)), 0)

    def reorder(self, rows: Tensor) -> None:
        """Continue every slot with the given rows of the batch (new B,)."""
        for slot in self.slots():
            slot.reorder(rows)

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first ``length``, which may then be followed by others."""
        for slot in self.slots():
            slot.truncate(length)

    def swap(self, rows: Tensor) -> None:
        """As `reorder`, for rows (B,) each of which looks at the same memory as the one in its place before.

        What is kept of the memory, the larger part in beam search over audio or images, need not be copied.
        """
        for slot in self.slots():
            if not isinstance(slot, Once):
                slot.reorder(rows)


def _leaves(tree: Mapping[Any, Any]) -> Iterator[Slot]:
    for child in tree.values():
        if isinstance(child, Slot):
            yield child
        else:
            yield from _leaves(child)


def _joined(before: Tokens, new: Tokens, *, first: bool) -> Tokens:
    """Join the facts about old and new keys.

    Raises:
        ValueError: if a fact is known for some of the tokens only.
    """

    def join(name: str, a: Tensor | None, b: Tensor | None) -> Tensor | None:
        if first:
            return b
        if (a is None) != (b is None):
            raise ValueError(f"tokens.{name} must be given on every call with the same cache, or on none")
        if a is None or b is None:
            return None
        rows = max(a.shape[0], b.shape[0])
        return torch.cat([a.expand(rows, *a.shape[1:]), b.expand(rows, *b.shape[1:])], 1)

    return Tokens(
        join("index", before.index, new.index),
        join("segment", before.segment, new.segment),
        join("coords", before.coords, new.coords),
    )


def _picked(tokens: Tokens, rows: Tensor) -> Tokens:
    """Pick rows of every fact that differs between rows."""
    return tokens.map(lambda fact: fact if fact.shape[0] == 1 else fact[rows])
