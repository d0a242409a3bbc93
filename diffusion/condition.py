"""What a diffusion model is told beside the noisy picture: the time step, and what the picture should show."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Condition",
    "LabelEmbedding",
    "Labels",
    "PooledEmbedding",
    "Text",
    "TimestepEmbedding",
    "joined",
    "mixed",
    "rows",
]


class Labels(NamedTuple):
    """The class of each picture.

    Attributes:
        index: (B,) int64; the number of classes itself stands for "no class".
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


class Text(NamedTuple):
    """What an encoder made of the text that describes each picture.

    Attributes:
        states: (B, L, D), one vector for each token.
        pooled: (B, P), one vector for the whole text.
        lengths: (B,) int64, how many tokens are text and not padding; None = all.
    """

    states: Tensor
    pooled: Tensor
    lengths: Tensor | None = None


Condition = Labels | Text | None
"""None for models that are told nothing."""


def joined(conditions: Sequence[Condition]) -> Condition:
    """Return conditions of one kind as one, whose rows are theirs in order; shorter texts are padded.

    Raises:
        TypeError: if they are of several kinds.
    """
    first = conditions[0]
    labels = [c.index for c in conditions if isinstance(c, Labels)]
    texts = [c for c in conditions if isinstance(c, Text)]
    if first is None and not labels and not texts:
        return None
    if len(labels) == len(conditions):
        return Labels(torch.cat(labels))
    if len(texts) != len(conditions):
        raise TypeError(f"conditions of several kinds: {', '.join(type(c).__name__ for c in conditions)}")
    longest = max(text.states.shape[1] for text in texts)
    states = torch.cat([F.pad(text.states, (0, 0, 0, longest - text.states.shape[1])) for text in texts])
    if all(text.lengths is None and text.states.shape[1] == longest for text in texts):
        lengths = None
    else:
        lengths = torch.cat([_lengths(text) for text in texts])
    return Text(states, torch.cat([text.pooled for text in texts]), lengths)


def rows(condition: Condition, at: slice | Tensor) -> Condition:
    """Return some rows of a condition, by a slice or by their numbers."""
    if isinstance(condition, Labels):
        return Labels(condition.index[at])
    if isinstance(condition, Text):
        return Text(*(None if part is None else part[at] for part in condition))  # type: ignore[arg-type]
    return None


def mixed(first: Tensor, yes: Condition, no: Condition) -> Condition:
    """Return the rows of ``yes`` where ``first`` (B,) holds, and those of ``no``, of the same kind, where not."""
    numbers = torch.arange(len(first), device=first.device)
    return rows(joined([yes, no]), torch.where(first, numbers, numbers + len(first)))


def _lengths(text: Text) -> Tensor:
    if text.lengths is not None:
        return text.lengths
    return torch.full(text.states.shape[:1], text.states.shape[1], device=text.states.device)


class TimestepEmbedding(nn.Module):
    """Cosines and sines of the time step, and two layers (``models.py`` of facebookresearch/DiT).

    Args:
        dim: width of the result.
        frequencies: how many cosines and sines together.
        shift: the angles are t * 10000 ** -(i / (n - shift)) for i < n: 0 as published, 1 in diffusers' DiT.
    """

    def __init__(self, dim: int, frequencies: int = 256, shift: int = 0) -> None:
        super().__init__()
        self.waves = frequencies // 2
        self.shift = shift
        self.fc1 = nn.Linear(frequencies, dim)
        self.act = nn.SiLU()
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """Embed t (B,), float: (B, dim)."""
        order = torch.arange(self.waves, dtype=torch.float32, device=t.device)
        angle = t.float()[:, None] * torch.exp(order * (-9.210340371976184 / (self.waves - self.shift)))
        both = torch.cat([angle.cos(), angle.sin()], 1)
        return self.fc2(self.act(self.fc1(both.to(self.fc1.weight.dtype))))


class LabelEmbedding(nn.Module):
    """One vector for each class, and one for "no class".

    Args:
        classes: their number.
        dim: width of the result.
    """

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(classes + 1, dim)

    def forward(self, labels: Labels) -> Tensor:
        """Embed (B,) classes: (B, dim)."""
        return self.table(labels.index)


class PooledEmbedding(nn.Module):
    """Two layers for the one vector of a text.

    Args:
        width: of the vector.
        dim: width of the result.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, dim)
        self.act = nn.SiLU()
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, pooled: Tensor) -> Tensor:
        """Embed pooled (B, width): (B, dim)."""
        return self.fc2(self.act(self.fc1(pooled)))
