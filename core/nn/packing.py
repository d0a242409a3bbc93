"""Sequences of different lengths in one row, instead of padded or as Python lists."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .context import Tokens

__all__ = ["pack", "packed_tokens", "padded_tokens", "unpack"]


def packed_tokens(lengths: Sequence[int], device: torch.device | str | None = None) -> Tokens:
    """Return the tokens of one row that holds sequences of the given lengths, each numbered from 0.

    Raises:
        ValueError: if a length is not positive.
    """
    if any(n < 1 for n in lengths):
        raise ValueError(f"packed sequences need at least one token each, got lengths {list(lengths)}")
    counts = torch.tensor(list(lengths))
    segment = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    start = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    index = torch.arange(int(counts.sum())) - start
    return Tokens(index[None].to(device), segment[None].to(device), lengths=tuple(int(n) for n in lengths))


def pack(sequences: Sequence[Tensor]) -> tuple[Tensor, Tokens]:
    """Join sequences (L_i, D) into one row (1, sum L_i, D), with the tokens that keep them apart."""
    tokens = packed_tokens([len(s) for s in sequences], sequences[0].device)
    return torch.cat(list(sequences))[None], tokens


def unpack(x: Tensor, tokens: Tokens) -> list[Tensor]:
    """Split a packed row (1, sum L_i, D) into its sequences (L_i, D).

    Raises:
        ValueError: if the tokens do not carry the lengths of their segments.
    """
    if tokens.lengths is None:
        raise ValueError("these tokens are not of a packed row: they carry no lengths")
    return list(x[0].split(list(tokens.lengths)))


def padded_tokens(lengths: Tensor, size: int, *, left: bool = False) -> Tokens:
    """Return the tokens of rows padded to ``size``, padding on the right (or left) side.

    Args:
        lengths: (B,) integers, the true lengths.
        size: length of the padded rows.
    """
    slot = torch.arange(size, device=lengths.device)[None]
    index = slot - (size - lengths[:, None]) if left else slot.expand(len(lengths), -1)
    inside = (index >= 0) & (index < lengths[:, None])
    return Tokens(index=torch.where(inside, index, -1))
