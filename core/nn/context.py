"""What travels beside the activations: facts about tokens, and the data of one call.

Everything here is a NamedTuple, so that activation checkpointing, FSDP2, ``torch.compile`` and ``torch.export``
see the tensors inside. The fields are a closed list: a new operator is an injected module, not a new field.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Ctx", "Memory", "Out", "Tokens"]


class Tokens(NamedTuple):
    """Integer facts about the tokens of a batch, each of shape (B or 1, L).

    Attributes:
        index: order of the tokens, for masks. ``-1`` = padding, seen by nobody. None = 0..L-1, where the queries
            are the last L of the S keys. Tokens that share an index see each other under a causal rule.
        segment: which packed sequence (or window region) a token belongs to; segments never see each other.
        coords: where a token stands, for position modules: (B or 1, L) or (B or 1, L, axes), -1 = nowhere.
            None = ``index``. Integers on purpose: FSDP2 policies cast every floating-point input.
        lengths: lengths of the packed segments as numbers of the host, so that kernels need not read the device.
            They say that the batch is one row whose segments are each numbered 0..n-1 (:func:`core.nn.packing.pack`);
            where the rule is causal, padding may stand at the end of one.
    """

    index: Tensor | None = None  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    segment: Tensor | None = None
    coords: Tensor | None = None
    lengths: tuple[int, ...] | None = None

    def map(self, fn: Callable[[Tensor], Tensor]) -> "Tokens":
        """Return the tokens with ``fn`` applied to every fact that is given; lengths are dropped."""
        index, segment, coords = (None if fact is None else fn(fact) for fact in self[:3])
        return Tokens(index, segment, coords)


class Memory(NamedTuple):
    """Where cross-attention takes its keys and values from: activations (B, S, D) and their tokens."""

    x: Tensor
    tokens: Tokens = Tokens()


class Ctx(NamedTuple):
    """The data of one call.

    Attributes:
        tokens: :class:`Tokens` of the activations, or a tuple with one for each stream.
        memory: :class:`Memory` for cross-attention. A filled cache slot makes it unnecessary.
        cond: (B, D) conditioning (time step, class, text) for modulated branches.
        mask: a :class:`core.nn.mask.Mask` that self-attention applies on top of its own rule.
        bias: additive attention bias (B or 1, heads or 1, L, S) shared by all blocks.
        cache: ``{block: {branch: Slot}}``.
        want: what to capture, ``{block: {"hidden": True, branch: [head, ...] or True}}``.
        notes: the dict into which the running branch may write (auxiliary losses, captured weights).
    """

    tokens: Any = Tokens()
    memory: Any = None
    cond: Any = None
    mask: Any = None
    bias: Any = None
    cache: Any = None
    want: Any = None
    notes: Any = None

    def at(self, name: Any) -> "Ctx":
        """Return the context as the child ``name`` should see it: its slots, its wishes, its own notes."""
        tokens, memory, cond, mask, bias, cache, want, notes = self
        # spelled out: called 4 times a block, where _replace costs twice as much
        return Ctx(
            tokens,
            memory,
            cond,
            mask,
            bias,
            cache=_child(cache, name),
            want=_child(want, name),
            notes=None if notes is None else notes.setdefault(name, {}),
        )


class Out(NamedTuple):
    """What a block returns: activations, and notes by the name of who wrote them: a block's branch, a stack's block."""

    x: Any
    notes: dict[Any, Any]


def _child(tree: Any, name: Any) -> Any:
    return None if tree is None or not isinstance(tree, Mapping) else tree.get(name)
