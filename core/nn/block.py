"""The one block: named branches in order, and a stack of blocks.

A branch is any module that maps ``(x, ctx)`` to x. What differs between families is injected: another operator is
another ``fn`` or ``norm``, another flow of data is another class beside :class:`Residual`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Attention
from .cache import Cache, Growing, Slot
from .context import Ctx, Out, Tokens
from .norm import DropPath, Modulation

__all__ = [
    "Block",
    "Each",
    "Modulated",
    "PostNorm",
    "Repeat",
    "Replace",
    "Residual",
    "Stack",
    "Stochastic",
    "direct",
    "recomputed",
]


class Residual(nn.Module):
    """x + post(fn(norm(x), ctx)): the pre-norm branch.

    Args:
        norm: of the input.
        fn: maps (x, ctx) to x: attention, feed-forward.
        post: of the result: LayerScale, DropPath, a second norm, a gate.
    """

    def __init__(self, norm: nn.Module, fn: nn.Module, post: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = norm
        self.fn = fn
        self.post = post

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        y = self.fn(self.norm(x), ctx)
        return x + (y if self.post is None else self.post(y))


class Stochastic(Residual):
    """x + drop(post(fn(norm(x), ctx))): stochastic depth, by rows or by the segments of a packed row.

    Args:
        norm, fn, post: see :class:`Residual`.
        rate: probability with which a sequence goes without the branch in training.
    """

    def __init__(self, norm: nn.Module, fn: nn.Module, post: nn.Module | None = None, rate: float = 0.0) -> None:
        super().__init__(norm, fn, post)
        self.drop = DropPath(rate)

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        y = self.fn(self.norm(x), ctx)
        return x + self.drop(y if self.post is None else self.post(y), ctx.tokens)


class PostNorm(Residual):
    """norm(x + post(fn(x, ctx))): the branch of the original Transformer and BERT."""

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        y = self.fn(x, ctx)
        return self.norm(x + (y if self.post is None else self.post(y)))


class Replace(Residual):
    """post(fn(norm(x), ctx)): no shortcut (Perceiver IO's output queries)."""

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        y = self.fn(self.norm(x), ctx)
        return y if self.post is None else self.post(y)


class Modulated(nn.Module):
    """x + gate * fn(modulation(x), ctx), with shift, scale and gate made from ``ctx.cond``: the branch of DiT.

    Args:
        modulation: returns the modulated x and the gate.
        fn: maps (x, ctx) to x.
        post: of the result, before the gate.
    """

    def __init__(self, modulation: Modulation, fn: nn.Module, post: nn.Module | None = None) -> None:
        super().__init__()
        self.modulation = modulation
        self.fn = fn
        self.post = post

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        y, gate = self.modulation(x, ctx.cond)
        y = self.fn(y, ctx)
        return x + gate * (y if self.post is None else self.post(y))


class Each(nn.Module):
    """One branch for each stream of a tuple of activations; None leaves a stream as it is."""

    def __init__(self, branches: Iterable[nn.Module | None]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Identity() if b is None else b for b in branches])

    def forward(self, x: tuple[Tensor, ...], ctx: Ctx) -> tuple[Tensor, ...]:
        """Map a tuple of (B, L_i, D_i) to the same."""
        tokens = (ctx.tokens,) * len(x) if isinstance(ctx.tokens, Tokens) else ctx.tokens
        return tuple(
            s if isinstance(branch, nn.Identity) else branch(s, ctx._replace(tokens=own))
            for branch, s, own in zip(self.branches, x, tokens, strict=True)
        )


class Block(nn.Module):
    """Named branches, applied in order: ``Block(attn=Residual(...), mlp=Residual(...))``."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Any, ctx: Ctx = Ctx()) -> Out:
        """Return the activations, and the notes of the branches that had any.

        With ``ctx.want["hidden"]`` the notes hold the result under ``"hidden"``.

        Raises:
            ValueError: if something is wanted of a branch that isn't there.
        """
        if ctx.want is not None:
            _check_wishes(ctx.want, [*self._modules, "hidden"], "branch")
        notes: dict[Any, Any] = {}
        mine = ctx._replace(notes=notes)
        for name, branch in self._modules.items():
            assert branch is not None
            x = branch(x, mine.at(name))
        if ctx.want is not None and ctx.want.get("hidden"):
            notes["hidden"] = x
        return Out(x, {name: note for name, note in notes.items() if not (isinstance(note, dict) and not note)})

    def slots(self, make: Callable[[], Slot]) -> dict[str, Slot]:
        """Return a cache slot for each branch that holds an attention.

        Raises:
            TypeError: if a branch holds several, which would write into one slot.
        """
        found: dict[str, Slot] = {}
        for name, branch in self._modules.items():
            held = [] if branch is None else [m for m in branch.modules() if isinstance(m, Attention)]
            if len(held) > 1:
                raise TypeError(f"branch {name!r} holds {len(held)} attentions, but a branch has one cache slot")
            if held:
                found[name] = held[0].slot(make)
        return found


class Repeat(nn.Module):
    """One stack applied several times with the same weights (Perceiver).

    Putting one block twice into a :class:`Stack` would list its weights twice in the state dict.
    """

    def __init__(self, stack: "Stack", times: int) -> None:
        super().__init__()
        self.stack = stack
        self.times = times

    def forward(self, x: Any, ctx: Ctx = Ctx()) -> Out:
        """Return the activations, and notes as ``{round: {block: ...}}``; ``ctx.want`` and ``ctx.cache`` likewise."""
        notes: dict[Any, Any] = {}
        for turn in range(self.times):
            x, found = self.stack(x, ctx.at(turn))
            if found:
                notes[turn] = found
        return Out(x, notes)

    def slots(self, make: Callable[[], Slot]) -> dict[int, Cache]:
        """Return a cache for each round."""
        return {turn: self.stack.cache(make) for turn in range(self.times)}


Run = Callable[[nn.Module, Any, Ctx], Out]


def direct(block: nn.Module, x: Any, ctx: Ctx) -> Out:
    """Run a block and keep what its backward pass needs."""
    return block(x, ctx)


def recomputed(block: nn.Module, x: Any, ctx: Ctx) -> Out:
    """Run a block and compute it again in the backward pass: less memory, a third more time."""
    if not torch.is_grad_enabled():
        return block(x, ctx)
    result = checkpoint(block, x, ctx, use_reentrant=False)
    assert isinstance(result, Out)
    return result


class Stack(nn.ModuleList):
    """Blocks in order.

    Args:
        blocks: each maps (x, ctx) to :class:`Out`.
        run: how to run one: :func:`direct` or :func:`recomputed` (activation checkpointing).
    """

    def __init__(self, blocks: Iterable[nn.Module], *, run: Run = direct) -> None:
        super().__init__(blocks)
        self.run = run

    def forward(self, x: Any, ctx: Ctx = Ctx()) -> Out:
        """Return the activations, and notes as ``{number of the block: {branch: {name: value}}}``.

        Raises:
            ValueError: if something is wanted of a block that isn't there.
        """
        if ctx.want is not None:
            _check_wishes(ctx.want, range(len(self)), "block")
        notes: dict[Any, Any] = {}
        for number, block in enumerate(self):
            x, found = self.run(block, x, ctx.at(number))
            if found:
                notes[number] = found
        return Out(x, notes)

    def cache(self, make: Callable[[], Slot] = Growing) -> Cache:
        """Return an empty cache for all attentions; ``make`` makes the slots of self-attention.

        Raises:
            TypeError: if a module of the stack is neither a :class:`Block` nor a :class:`Repeat`.
        """
        slots: dict[Any, dict[Any, Any]] = {}
        for number, block in enumerate(self):
            if not isinstance(block, Block | Repeat):
                raise TypeError(f"block {number} is a {type(block).__name__}, which has no cache slots")
            slots[number] = block.slots(make)
        return Cache(slots)


def _check_wishes(want: Mapping[Any, Any], there: Collection[Any], kind: str) -> None:
    for name in want:
        if name not in there:
            raise ValueError(f"no {kind} {name!r} to capture from: there are {', '.join(map(str, there))}")
