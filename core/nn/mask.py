"""Who may attend to whom: rules on tokens that drive every kernel.

A rule is a predicate on pairs of tokens. One rule makes the dense mask of SDPA, the block mask of FlexAttention and
the choice of the packed kernels. Padding (``index == -1``) and segments are facts about tokens, not rules: they hold
under every rule.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .context import Tokens

__all__ = ["Both", "Causal", "Dense", "Either", "Full", "Mask", "Prefix", "Sight", "View", "Window"]


class View(NamedTuple):
    """One side of the pairs that a rule judges: integer tensors that broadcast against the other side's.

    Attributes:
        row: number of the row in the batch.
        head: number of the head.
        slot: number of the token in the tensor.
        order: the token's ``index`` (:class:`Tokens`).
    """

    row: Tensor
    head: Tensor
    slot: Tensor
    order: Tensor


class Mask:
    """A rule; compose rules with ``&`` and ``|``.

    ``ordinal`` says that the rule looks at ``index`` only, so that it can be applied to each packed segment alone.
    """

    ordinal: ClassVar[bool] = True

    def keep(self, q: View, k: View) -> Tensor:
        """Return a bool tensor: may ``q`` attend to ``k``? Its shape broadcasts to (B, heads, L, S)."""
        raise NotImplementedError

    def __and__(self, other: "Mask") -> "Mask":
        if isinstance(self, Full):
            return other
        return self if isinstance(other, Full) else Both(self, other)

    def __or__(self, other: "Mask") -> "Mask":
        return Full() if isinstance(self, Full) or isinstance(other, Full) else Either(self, other)


@dataclass(frozen=True)
class Full(Mask):
    """Everyone sees everyone."""

    def keep(self, q: View, k: View) -> Tensor:
        """Keep all pairs."""
        return torch.ones_like(k.order, dtype=torch.bool)


@dataclass(frozen=True)
class Causal(Mask):
    """A token sees itself and what comes before it."""

    def keep(self, q: View, k: View) -> Tensor:
        """Keep pairs whose key is not later than the query."""
        return k.order <= q.order


@dataclass(frozen=True)
class Window(Mask):
    """A token sees those less than ``size`` away on either side, and the first ``sinks`` of its sequence.

    ``Causal() & Window(n)`` is the sliding window of Mistral; the sinks are those of StreamingLLM (arXiv:2309.17453).
    """

    size: int
    sinks: int = 0

    def keep(self, q: View, k: View) -> Tensor:
        """Keep near pairs and sinks."""
        near = (q.order - k.order).abs() < self.size
        return near | (k.order < self.sinks) if self.sinks else near


@dataclass(frozen=True, eq=False)
class Prefix(Mask):
    """Everyone sees the first ``lengths[row]`` tokens: ``Causal() | Prefix(lengths)`` is a prefix language model.

    Attributes:
        lengths: (B,) integers.
    """

    lengths: Tensor
    ordinal: ClassVar[bool] = False

    def keep(self, q: View, k: View) -> Tensor:
        """Keep pairs whose key lies in the prefix."""
        return k.order < self.lengths[q.row]


@dataclass(frozen=True, eq=False)
class Dense(Mask):
    """An arbitrary mask, bool of shape (B or 1, heads or 1, L, S), True = may attend."""

    mask: Tensor
    ordinal: ClassVar[bool] = False

    def keep(self, q: View, k: View) -> Tensor:
        """Look the pair up."""
        rows, heads = self.mask.shape[:2]
        row = q.row if rows > 1 else torch.zeros_like(q.row)
        head = q.head if heads > 1 else torch.zeros_like(q.head)
        return self.mask[row, head, q.slot, k.slot]


@dataclass(frozen=True)
class _Pair(Mask):
    a: Mask
    b: Mask

    @property
    def ordinal(self) -> bool:  # type: ignore[override]
        """Whether both rules look at ``index`` only."""
        return self.a.ordinal and self.b.ordinal


@dataclass(frozen=True)
class Both(_Pair):
    """The pairs that both rules keep."""

    def keep(self, q: View, k: View) -> Tensor:
        """Keep what both keep."""
        return self.a.keep(q, k) & self.b.keep(q, k)


@dataclass(frozen=True)
class Either(_Pair):
    """The pairs that at least one of the rules keeps."""

    def keep(self, q: View, k: View) -> Tensor:
        """Keep what one of them keeps."""
        return self.a.keep(q, k) | self.b.keep(q, k)


class Sight(NamedTuple):
    """All that decides who sees whom in one attention: a rule, and the tokens that it is applied to."""

    rule: Mask = Full()
    queries: Tokens = Tokens()
    keys: Tokens = Tokens()

    @property
    def plain(self) -> bool:
        """Whether the tokens carry nothing that restricts them: no order of their own, padding or segments."""
        q, k = self.queries, self.keys
        return q.index is None and k.index is None and (q.segment is None or k.segment is None)

    def everything(self, length: int, size: int) -> bool:
        """Whether ``length`` queries each see all ``size`` keys, as far as can be told without reading the device."""
        return self.plain and (isinstance(self.rule, Full) or (isinstance(self.rule, Causal) and length == 1))

    def triangle(self, length: int, size: int) -> bool:
        """Whether this is the plain causal triangle that kernels have a shortcut for."""
        return self.plain and isinstance(self.rule, Causal) and length == size

    def dense(self, q: Tensor, k: Tensor) -> Tensor | None:
        """Return the bool mask that broadcasts to (B, heads, L, S), or None where everyone sees everyone.

        Args:
            q: queries (B, heads, L, d). Only the shape and the device count.
            k: keys (B, heads or groups, S, d).
        """
        rows, heads, length = q.shape[:3]
        size = k.shape[2]
        if self.everything(length, size):
            return None

        def view(tokens: Tokens, n: int, start: int, shape: tuple[int, ...]) -> View:
            slot = torch.arange(n, device=q.device)
            index = (slot + start)[None] if tokens.index is None else tokens.index
            return View(
                row=torch.arange(rows, device=q.device).view(-1, 1, 1, 1),
                head=torch.arange(heads, device=q.device).view(1, -1, 1, 1),
                slot=slot.view(shape),
                order=index.view(-1, *shape[1:]),
            )

        asked = view(self.queries, length, size - length, (1, 1, length, 1))
        given = view(self.keys, size, 0, (1, 1, 1, size))
        kept = self.rule.keep(asked, given)
        if self.keys.index is not None:
            kept = kept & (given.order >= 0)
        mine, theirs = self.queries.segment, self.keys.segment
        if mine is not None and theirs is not None:
            kept = kept & (mine[:, None, :, None] == theirs[:, None, None, :])
        return kept
