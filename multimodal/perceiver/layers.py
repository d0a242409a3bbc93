"""The two blocks of a Perceiver: one that reads, one over the latents."""

from torch import nn

from core.nn import Block, CrossAttention, Heads, LayerNorm, Mlp, Replace, Residual, attention
from core.nn.attention import Attention

__all__ = ["read_block", "self_block"]


def read_block(
    dim: int, memory_dim: int, heads: int, qk: int, v: int | None = None, *, ratio: int = 1, residual: bool = True
) -> Block:
    """Return cross-attention and a feed-forward branch.

    Args:
        dim: width of the queries and of the result.
        memory_dim: width of what is read, which is normed.
        heads: their number.
        qk, v: width of all heads together, of queries and keys and of values (default ``qk``).
        ratio: hidden width as a multiple of ``dim``.
        residual: whether the queries stay in the sum.

    Raises:
        ValueError: if the heads don't divide a width.
    """
    v = qk if v is None else v
    _check(heads, qk, v)
    fn = CrossAttention(
        Heads(dim, heads, qk // heads),
        Heads(memory_dim, heads, qk // heads),
        Heads(memory_dim, heads, v // heads),
        nn.Linear(v, dim),
        pre=LayerNorm(memory_dim),
    )
    branch = Residual if residual else Replace
    return Block(cross=branch(LayerNorm(dim), fn), mlp=Residual(LayerNorm(dim), Mlp(dim, ratio * dim)))


def self_block(dim: int, heads: int, qk: int | None = None, v: int | None = None, *, ratio: int = 1) -> Block:
    """Return self-attention and a feed-forward branch; arguments as of :func:`read_block`, ``qk`` by default ``dim``.

    Raises:
        ValueError: if the heads don't divide a width.
    """
    qk = dim if qk is None else qk
    v = qk if v is None else v
    _check(heads, qk, v)
    fn = attention(dim, heads, head_dim=qk // heads)
    if v != qk:
        fn = Attention(fn.q, fn.k, Heads(dim, heads, v // heads), nn.Linear(v, dim))
    return Block(attn=Residual(LayerNorm(dim), fn), mlp=Residual(LayerNorm(dim), Mlp(dim, ratio * dim)))


def _check(heads: int, qk: int, v: int) -> None:
    if qk % heads or v % heads:
        raise ValueError(f"{heads} heads do not divide {qk} channels of queries and keys, or {v} of values")
