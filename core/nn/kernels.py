"""Attention itself, over every implementation that is worth having.

Only this file touches SDPA, FlexAttention, xformers and the variable-length kernels. All kernels have one signature and
one meaning; :func:`eager` spells it out and the others are tested against it, forward and backward. :func:`attend`
chooses; :func:`use` or an injected ``kernel=`` overrides it.

Shapes: q (B, heads, L, d), k and v (B, groups, S, d) where groups divides heads (grouped-query attention), bias
broadcasts to (B, heads, L, S), result (B, heads, L, d_v). A query that may see nothing gets zeros.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .context import Tokens
from .mask import Both, Causal, Full, Sight, View, Window

__all__ = ["KERNELS", "Kernel", "attend", "eager", "flex", "sdpa", "split", "use", "varlen", "weights", "xformers"]

Kernel = Callable[[Tensor, Tensor, Tensor, Sight, Tensor | None, float | None], Tensor]


def weights(q: Tensor, k: Tensor, sight: Sight, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Return softmax(q k^T scale + bias) under the mask, (B, heads, L, S): the attention weights themselves."""
    k = _grouped(k, q.shape[1])
    scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    mask = sight.dense(q, k)
    if mask is None:
        return scores.softmax(-1)
    # finfo.min and a product instead of -inf: a row that sees nothing becomes zeros, with gradients that are zero too
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) * mask


def eager(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """The reference: softmax(q k^T scale + bias) v, as in Vaswani et al. 2017, equation 1."""
    return weights(q, k, sight, bias, scale).to(v.dtype) @ _grouped(v, q.shape[1])


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """PyTorch's fused attention, which picks flash, memory-efficient, cuDNN or plain kernels itself."""
    gqa = k.shape[1] != q.shape[1]
    if bias is None and sight.triangle(q.shape[2], k.shape[2]):
        # a branch of its own: compiled for any length, the comparison is a symbol, which no kernel takes as a flag
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=gqa)
    mask = sight.dense(q, k)
    if bias is not None:
        bias = bias.to(q.dtype)
        mask = bias if mask is None else torch.where(mask, bias, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa)


def split(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Packed rows, one call for each run of equally long segments: exact, and no work between segments.

    Raises:
        ValueError: if the tokens are not those of packed rows (:func:`packable`).
    """
    if not packable(q, sight, bias):
        raise ValueError("split needs one packed row whose tokens carry lengths, an ordinal rule and no bias")
    asked, given = sight.queries.lengths or (), sight.keys.lengths or ()
    inner = Sight(sight.rule)
    parts: list[Tensor] = []
    q0 = k0 = 0
    for (n_q, n_k), run in groupby(zip(asked, given, strict=True)):
        n = len(list(run))
        # (1, h, n*L, d) -> (n, h, L, d)
        some_q, some_k, some_v = (
            t[0, :, start : start + n * length].unflatten(1, (n, length)).transpose(0, 1)
            for t, start, length in ((q, q0, n_q), (k, k0, n_k), (v, k0, n_k))
        )
        kernel = eager if _slow_backward(some_q, some_k) else sdpa
        parts.append(kernel(some_q, some_k, some_v, inner, None, scale).transpose(0, 1).flatten(1, 2))
        q0, k0 = q0 + n * n_q, k0 + n * n_k
    return torch.cat(parts, 1)[None]


def varlen(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Packed rows through PyTorch's variable-length flash attention (CUDA, half precision).

    Raises:
        ValueError: if the tokens are not those of packed rows or the rule is not one of the kernel's windows.
    """
    from torch.nn.attention.varlen import varlen_attn

    window = _flash_window(sight)
    if window is None or not packable(q, sight, bias):
        raise ValueError("varlen needs one packed row, a full, causal or causal-window rule, and no bias")
    asked, given = sight.queries.lengths or (), sight.keys.lengths or ()
    q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))  # (1, h, N, d) -> (N, h, d)
    out = varlen_attn(
        q,
        k,
        v,
        cu_seq_q=_cumulative(asked, q.device),
        cu_seq_k=_cumulative(given, q.device),
        max_q=max(asked),
        max_k=max(given),
        scale=scale,
        window_size=window,
        enable_gqa=k.shape[1] != q.shape[1],
    )
    assert isinstance(out, Tensor)
    return out.transpose(0, 1)[None]


def xformers(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """The memory-efficient attention of xformers (CUDA only), with its block-diagonal masks for packed rows."""
    ops, biases = _import_xformers()
    k, v = _grouped(k, q.shape[1]), _grouped(v, q.shape[1])
    length, size = q.shape[2], k.shape[2]
    mask: Any
    if packable(q, sight, bias) and isinstance(sight.rule, Full | Causal):
        mask = biases.BlockDiagonalMask.from_seqlens(list(sight.queries.lengths or ()), list(sight.keys.lengths or ()))
        mask = mask.make_causal() if isinstance(sight.rule, Causal) else mask
    elif bias is None and sight.triangle(length, size):
        mask = biases.LowerTriangularMask()
    else:
        dense = sight.dense(q, k)
        mask = bias
        if dense is not None:
            mask = torch.where(dense, 0.0 if bias is None else bias, float("-inf")).to(q.dtype)
        if mask is not None:
            mask = _aligned(mask.to(q.dtype).expand(*q.shape[:3], size))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return ops.memory_efficient_attention(q, k, v, attn_bias=mask, scale=scale).transpose(1, 2)


def flex(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """FlexAttention: the rule itself makes the block mask, so that masked blocks cost nothing. No backward on CPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    rows, heads, length = q.shape[:3]
    size = k.shape[2]
    if bias is not None:
        bias = bias.expand(rows, heads, length, size)

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return s if bias is None else s + bias[b, h, i, j]

    block = None
    if not sight.everything(length, size):
        block = create_block_mask(_flex_rule(sight, length, size), rows, heads, length, size, device=q.device)
    score_mod = None if bias is None else score
    gqa = k.shape[1] != heads
    run: Any = _compiled_flex() if q.is_cuda else flex_attention
    out = run(q, k, v, score_mod=score_mod, block_mask=block, scale=scale, enable_gqa=gqa)
    assert isinstance(out, Tensor)
    return out


KERNELS: dict[str, Kernel] = {
    "eager": eager,
    "sdpa": sdpa,
    "split": split,
    "varlen": varlen,
    "xformers": xformers,
    "flex": flex,
}
_forced: Kernel | None = None


def attend(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attend with the kernel that fits: packed kernels for packed rows, SDPA for everything else."""
    kernel = _forced
    if kernel is None:
        kernel = sdpa
        if packable(q, sight, bias) and not torch.compiler.is_compiling():
            kernel = split
            if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and _flash_window(sight) is not None:
                kernel = varlen
        elif _slow_backward(q, k):
            kernel = eager
    return kernel(q, k, v, sight, bias, scale)


@contextmanager
def use(name: str) -> Iterator[None]:
    """Make every :func:`attend` inside the ``with`` use the named kernel of :data:`KERNELS`.

    Raises:
        ValueError: if there is no kernel of that name.
    """
    global _forced
    if name not in KERNELS:
        raise ValueError(f"no attention kernel {name!r}: choose one of {', '.join(KERNELS)}")
    before, _forced = _forced, KERNELS[name]
    try:
        yield
    finally:
        _forced = before


def _slow_backward(q: Tensor, k: Tensor) -> bool:
    """Whether SDPA's backward would lose to plain matrix products: bfloat16 on a processor, scores of moderate size."""
    if q.device.type != "cpu" or q.dtype is not torch.bfloat16 or torch.compiler.is_compiling():
        return False
    return torch.is_grad_enabled() and q.requires_grad and q.shape[2] * k.shape[2] <= 512**2


def packable(q: Tensor, sight: Sight, bias: Tensor | None) -> bool:
    """Whether the tokens are those of packed rows and the rule can be applied to each segment alone."""
    asked, given = sight.queries.lengths, sight.keys.lengths
    if asked is None or given is None or bias is not None or q.shape[0] != 1:
        return False
    return sight.rule.ordinal and len(asked) == len(given)


def _grouped(x: Tensor, heads: int) -> Tensor:
    """Repeat each of (B, groups, S, d) for its query heads -> (B, heads, S, d)."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _flash_window(sight: Sight) -> tuple[int, int] | None:
    """The (left, right) window of flash kernels that means the same as the rule, or None."""
    match sight.rule:
        case Full():
            return (-1, -1)
        case Causal():
            return (-1, 0)
        case Both(Causal(), Window(size, 0)) | Both(Window(size, 0), Causal()):
            return (size - 1, 0)
    return None


def _cumulative(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    return F.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0)).to(device)


def _flex_rule(sight: Sight, length: int, size: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The rule as FlexAttention asks for it: a predicate on four scalars (row, head, query slot, key slot)."""

    def pick(field: Tensor | None, b: Tensor, i: Tensor) -> Tensor | None:
        return None if field is None else field[b if field.shape[0] > 1 else b * 0, i]

    def view(tokens: Tokens, b: Tensor, h: Tensor, i: Tensor, start: int) -> View:
        index = pick(tokens.index, b, i)
        return View(b, h, i, i + start if index is None else index)

    def rule(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        given = view(sight.keys, b, h, j, 0)
        kept = sight.rule.keep(view(sight.queries, b, h, i, size - length), given) & (given.order >= 0)
        mine, theirs = pick(sight.queries.segment, b, i), pick(sight.keys.segment, b, j)
        return kept if mine is None or theirs is None else kept & (mine == theirs)

    return rule


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    """FlexAttention is only fused, and only worth having, when compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@functools.cache
def _import_xformers() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns at length about extensions that are not needed here
        import xformers.ops as ops
        from xformers.ops.fmha import attn_bias as biases
    return ops, biases


def _aligned(bias: Tensor) -> Tensor:
    """Copy (B, h, L, S) into storage whose rows start at multiples of 8, as the CUDA kernels demand."""
    size = bias.shape[-1]
    room = bias.new_empty(*bias.shape[:-1], -(-size // 8) * 8)[..., :size]
    return room.copy_(bias)
