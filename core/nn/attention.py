"""Multi-head, grouped-query and multi-query attention, over itself or over a memory.

Query, key and value have a projection each: tensor parallelism, LoRA and weight tables want them apart, and from 64
tokens up it costs nothing. Fused public checkpoints are split on load.
"""

from collections.abc import Callable, Collection
from typing import Protocol

import torch
from torch import Tensor, nn

from . import kernels
from .cache import Once, Slot
from .context import Ctx, Tokens
from .mask import Full, Mask, Sight

__all__ = [
    "Attention",
    "CrossAttention",
    "Heads",
    "PairBias",
    "Turn",
    "attention",
    "captured",
    "coordinates",
    "cross_attention",
]


class Turn(Protocol):
    """A position that turns queries and keys (rotary)."""

    def __call__(self, x: Tensor, coords: Tensor) -> Tensor:
        """Turn x (B, heads, L, d) by its coords (B or 1, L) or (B or 1, L, axes)."""
        ...


class PairBias(Protocol):
    """A position that biases pairs (ALiBi, relative tables)."""

    def __call__(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the bias (B or 1, heads, L, S) of coords q (B or 1, L[, axes]) and k (B or 1, S[, axes])."""
        ...


class Heads(nn.Module):
    """Project, split into heads, normalise, turn: (B, L, dim) -> (B, heads, L, head_dim).

    Args:
        dim: width of the input.
        heads: number of heads.
        head_dim: width of a head.
        bias: whether the projection has a bias.
        norm: applied to each head (q/k norm).
        turn: rotary position, applied last and before any cache.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        bias: bool = True,
        norm: nn.Module | None = None,
        turn: Turn | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.proj = nn.Linear(dim, heads * head_dim, bias=bias)
        self.norm = norm
        self.turn = turn

    def forward(self, x: Tensor, coords: Tensor | None = None) -> Tensor:
        """Return the heads of x; ``coords`` are needed where there is a ``turn``."""
        # the number of heads comes from the data: under tensor parallelism each rank holds a share of them
        x = self.proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, L, h*d) -> (B, h, L, d)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.turn is None or coords is None else self.turn(x, coords)


class Attention(nn.Module):
    """Self-attention.

    Tensor parallelism: q, k and v by columns, ``out`` by rows; the number of key/value heads must be divisible by the
    number of ranks. Norms of heads are replicated, and their gradients summed over the ranks (``SequenceParallel``).

    Args:
        q, k, v: :class:`Heads`; k and v may have fewer heads (groups), a divisor of q's.
        out: projection of the joined heads.
        mask: who may see whom; padding and segments of the tokens hold in any case.
        bias: position bias on pairs.
        kernel: how to compute it.
        scale: of the scores; default head_dim ** -0.5.
    """

    def __init__(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        out: nn.Module,
        *,
        mask: Mask = Full(),
        bias: PairBias | None = None,
        kernel: kernels.Kernel = kernels.attend,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.q, self.k, self.v = q, k, v
        self.out = out
        self.mask = mask
        self.bias = bias
        self.kernel = kernel
        self.scale = scale

    def forward(self, x: Tensor, ctx: Ctx = Ctx()) -> Tensor:
        """Attend: (B, L, D) -> (B, L, D). With a slot in ``ctx.cache``, x are the new tokens only."""
        return self.out(self.inner(x, ctx))

    def inner(self, x: Tensor, ctx: Ctx = Ctx()) -> Tensor:
        """All but the last projection: (B, L, D) -> the joined heads (B, L, h*d)."""
        slot: Slot | None = ctx.cache
        tokens: Tokens = ctx.tokens
        start: int | Tensor = 0
        if slot is not None:
            start = slot.length
            tokens = slot.place(tokens, x.shape[1], x.device)
        q = self.q(x, coordinates(tokens, x, start) if self.q.turn is not None else None)
        k, v, keys = self._keys(x, tokens, start, ctx)
        sight = Sight(self._rule(ctx), tokens, keys)
        bias = self._pair_bias(x, k, tokens, keys, start, ctx)
        if ctx.want is not None:
            ctx.notes["weights"] = captured(q, k, sight, bias, self.scale, ctx.want)
        y = self.kernel(q, k, v, sight, bias, self.scale)
        return y.transpose(1, 2).flatten(2)  # (B, h, L, d) -> (B, L, h*d)

    def slot(self, make: Callable[[], Slot]) -> Slot:
        """Return the cache slot that fits this attention; ``make`` makes those of self-attention."""
        return make()

    def _keys(self, x: Tensor, tokens: Tokens, start: int | Tensor, ctx: Ctx) -> tuple[Tensor, Tensor, Tokens]:
        def make() -> tuple[Tensor, Tensor, Tokens]:
            coords = coordinates(tokens, x, start) if self.k.turn is not None else None
            return self.k(x, coords), self.v(x), tokens

        return make() if ctx.cache is None else ctx.cache.read(make)

    def _rule(self, ctx: Ctx) -> Mask:
        return self.mask if ctx.mask is None else self.mask & ctx.mask

    def _pair_bias(
        self, x: Tensor, k: Tensor, tokens: Tokens, keys: Tokens, start: int | Tensor, ctx: Ctx
    ) -> Tensor | None:
        if self.bias is None:
            return ctx.bias
        slots = torch.arange(k.shape[2], device=x.device)[None]
        given = next((c for c in (keys.coords, keys.index) if c is not None), slots)
        bias = self.bias(coordinates(tokens, x, start), given)
        return bias if ctx.bias is None else bias + ctx.bias


class CrossAttention(Attention):
    """Attention over ``ctx.memory``.

    Args:
        pre: norm of the memory, where the model has one (Perceiver).
        others: see :class:`Attention`.
    """

    def __init__(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        out: nn.Module,
        *,
        pre: nn.Module | None = None,
        mask: Mask = Full(),
        bias: PairBias | None = None,
        kernel: kernels.Kernel = kernels.attend,
        scale: float | None = None,
    ) -> None:
        super().__init__(q, k, v, out, mask=mask, bias=bias, kernel=kernel, scale=scale)
        self.pre = pre

    def slot(self, make: Callable[[], Slot]) -> Slot:
        """Keys and values of the memory are computed once."""
        return Once()

    def _keys(self, x: Tensor, tokens: Tokens, start: int | Tensor, ctx: Ctx) -> tuple[Tensor, Tensor, Tokens]:
        def make() -> tuple[Tensor, Tensor, Tokens]:
            memory, given = ctx.memory
            coords = coordinates(given, memory, 0) if self.k.turn is not None else None
            if self.pre is not None:
                memory = self.pre(memory)
            return self.k(memory, coords), self.v(memory), given

        return make() if ctx.cache is None else ctx.cache.read(make)

    def _rule(self, ctx: Ctx) -> Mask:
        return self.mask

    def _pair_bias(
        self, x: Tensor, k: Tensor, tokens: Tokens, keys: Tokens, start: int | Tensor, ctx: Ctx
    ) -> Tensor | None:
        return None if self.bias is None else super()._pair_bias(x, k, tokens, keys, start, ctx._replace(bias=None))


def captured(
    q: Tensor, k: Tensor, sight: Sight, bias: Tensor | None, scale: float | None, want: Collection[int] | bool
) -> Tensor:
    """Return the attention weights (B, wanted heads, L, S), in float32 or better; the kernel, beside this, stays fused.

    Args:
        q, k, sight, bias, scale: as kernels take them.
        want: the numbers of the heads, or True for all.
    """
    heads = list(range(q.shape[1])) if isinstance(want, bool) else list(want)
    dtype = torch.promote_types(q.dtype, torch.float32)
    if not sight.rule.ordinal:  # it may look at the number of the head: judge all of them, then pick
        return kernels.weights(q.to(dtype), k.to(dtype), sight, bias, scale)[:, heads]
    share = q.shape[1] // k.shape[1]
    given = k[:, [head // share for head in heads]]
    if bias is not None and bias.shape[1] > 1:
        bias = bias[:, heads]
    return kernels.weights(q[:, heads].to(dtype), given.to(dtype), sight, bias, scale)


def coordinates(tokens: Tokens, x: Tensor, start: int | Tensor = 0) -> Tensor:
    """Return where the tokens of x (B, L, D) stand: their coords, else their index, else start..start+L-1."""
    if tokens.coords is not None:
        return tokens.coords
    if tokens.index is not None:
        return tokens.index
    return (torch.arange(x.shape[1], device=x.device) + start)[None]


def attention(
    dim: int,
    heads: int,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    bias: str = "qkvo",
    norm: Callable[[int], nn.Module] | None = None,
    turn: Turn | None = None,
    mask: Mask = Full(),
    pair_bias: PairBias | None = None,
    kernel: kernels.Kernel = kernels.attend,
    scale: float | None = None,
) -> Attention:
    """Build self-attention.

    Args:
        dim: width of the activations.
        heads: number of query heads.
        kv_heads: number of key/value heads: fewer = grouped-query (arXiv:2305.13245), 1 = multi-query.
        head_dim: width of a head, default dim // heads.
        bias: the projections that have one, out of ``"qkvo"``: Whisper ``"qvo"``, Llama ``""``, Qwen2 ``"qkv"``.
        norm: makes the norm of queries and of keys, from the head's width.
        turn: rotary position.
        mask, pair_bias, kernel, scale: see :class:`Attention`.

    Raises:
        ValueError: if the heads don't divide as they must.
    """
    kv_heads, head_dim = _check_heads(dim, heads, kv_heads, head_dim)

    def part(name: str, count: int, turned: bool) -> Heads:
        return Heads(
            dim,
            count,
            head_dim,
            bias=name in bias,
            norm=norm(head_dim) if norm is not None and turned else None,
            turn=turn if turned else None,
        )

    return Attention(
        part("q", heads, True),
        part("k", kv_heads, True),
        part("v", kv_heads, False),
        nn.Linear(heads * head_dim, dim, bias="o" in bias),
        mask=mask,
        bias=pair_bias,
        kernel=kernel,
        scale=scale,
    )


def cross_attention(
    dim: int,
    heads: int,
    *,
    memory_dim: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    bias: str = "qkvo",
    norm: Callable[[int], nn.Module] | None = None,
    pre: nn.Module | None = None,
    kernel: kernels.Kernel = kernels.attend,
    scale: float | None = None,
) -> CrossAttention:
    """Build attention over a memory of width ``memory_dim`` (default ``dim``); arguments as in :func:`attention`."""
    kv_heads, head_dim = _check_heads(dim, heads, kv_heads, head_dim)
    memory_dim = dim if memory_dim is None else memory_dim

    def part(name: str, width: int, count: int) -> Heads:
        norms = norm is not None and name != "v"
        return Heads(width, count, head_dim, bias=name in bias, norm=norm(head_dim) if norm and norms else None)

    return CrossAttention(
        part("q", dim, heads),
        part("k", memory_dim, kv_heads),
        part("v", memory_dim, kv_heads),
        nn.Linear(heads * head_dim, dim, bias="o" in bias),
        pre=pre,
        kernel=kernel,
        scale=scale,
    )


def _check_heads(dim: int, heads: int, kv_heads: int | None, head_dim: int | None) -> tuple[int, int]:
    kv_heads = heads if kv_heads is None else kv_heads
    if head_dim is None and dim % heads:
        raise ValueError(f"{heads} heads do not divide a width of {dim}: change one of them or give head_dim")
    if heads % kv_heads:
        raise ValueError(f"{kv_heads} key/value heads do not divide {heads} query heads")
    return kv_heads, dim // heads if head_dim is None else head_dim
