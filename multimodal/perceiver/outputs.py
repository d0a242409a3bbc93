"""Adapters out: queries that read the latents, and what is made of what they find (arXiv:2107.14795, section 3.2)."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn import Ctx, FourierPositions, Memory, points_of
from multimodal.perceiver.config import (
    ClassOutput,
    DenseOutput,
    LabelQuery,
    PerceiverConfig,
    SeveralOutput,
    SignalQuery,
    TextInput,
    TextOutput,
)
from multimodal.perceiver.inputs import Given
from multimodal.perceiver.layers import read_block

__all__ = ["ClassHead", "DenseHead", "Points", "SeveralHeads", "TextHead", "make_output"]

Points = Mapping[str, Tensor]
"""Numbers (N,) int64 of the points that are wanted of a signal, by the name of the part."""


class ClassHead(nn.Module):
    """See :class:`ClassOutput`."""

    def __init__(self, config: PerceiverConfig, output: ClassOutput) -> None:
        super().__init__()
        self.query = _query(1, config.dim)
        self.block = read_block(config.dim, config.dim, 1, config.dim)
        self.head = nn.Linear(config.dim, output.classes)

    def forward(self, latents: Tensor, given: Given, points: Points | None = None) -> Tensor:
        """Return logits (B, classes) of latents (B, L, D)."""
        query = self.query.to(latents.dtype).expand(len(latents), -1, -1)
        return self.head(self.block(query, Ctx(memory=Memory(latents))).x[:, 0])


class TextHead(nn.Module):
    """See :class:`TextOutput`."""

    def __init__(self, config: PerceiverConfig, output: TextOutput, text: TextInput) -> None:
        super().__init__()
        self.query = _query(text.context, text.dim)
        self.block = read_block(text.dim, config.dim, output.query_heads, output.qk, text.dim, residual=False)
        self.bias = nn.Parameter(torch.zeros(text.vocab))

    def forward(self, latents: Tensor, given: Given, points: Points | None = None) -> Tensor:
        """Return logits (B, L, vocab) for latents (B, N, D), at the L places of the text that was read."""
        query = self.query[: given.grid[0]].to(latents.dtype).expand(len(latents), -1, -1)
        x = self.block(query, Ctx(memory=Memory(latents))).x
        assert given.table is not None
        return F.linear(x, given.table, self.bias)


class DenseHead(nn.Module):
    """See :class:`DenseOutput`."""

    def __init__(self, config: PerceiverConfig, output: DenseOutput, width: int) -> None:
        super().__init__()
        qk = config.dim if config.read_width == "memory" else width
        self.block = read_block(width, config.dim, 1, qk, residual=False)
        self.head = nn.Linear(width, output.values)
        self.scale = output.scale

    def forward(self, latents: Tensor, given: Given, points: Points | None = None) -> Tensor:
        """Return (B, *grid, values): what the input's own tokens find in latents (B, N, D)."""
        x = self.head(self.block(given.x, Ctx(memory=Memory(latents))).x) / self.scale
        grid = given.grid[1:] if len(given.grid) == 3 and given.grid[0] == 1 else given.grid
        return x.unflatten(1, grid)


class SignalQueries(nn.Module):
    """See :class:`SignalQuery`."""

    def __init__(self, query: SignalQuery) -> None:
        super().__init__()
        self.grid = query.grid
        self.positions = FourierPositions(query.positions.bands, query.positions.resolution)
        self.dim = self.positions.dim

    def forward(self, points: Tensor | None, like: Tensor) -> Tensor:
        """Return the queries (N, dim) of some points, or of all."""
        if points is None:
            points = torch.arange(prod(self.grid), device=like.device)
        return self.positions(points_of(points, self.grid)).to(like.dtype)


class LabelQueries(nn.Module):
    """See :class:`LabelQuery`."""

    def __init__(self, query: LabelQuery) -> None:
        super().__init__()
        self.query = _query(1, query.dim)
        self.dim = query.dim

    def forward(self, points: Tensor | None, like: Tensor) -> Tensor:
        """Return the query (1, dim)."""
        return self.query.to(like.dtype)


class SeveralHeads(nn.Module):
    """See :class:`SeveralOutput`."""

    def __init__(self, config: PerceiverConfig, output: SeveralOutput) -> None:
        super().__init__()
        named = {name: getattr(output, name) for name in ("audio", "image", "label")}
        wanted = {name: query for name, query in named.items() if query is not None}
        parts: dict[str, Any] = {
            name: LabelQueries(query) if isinstance(query, LabelQuery) else SignalQueries(query)
            for name, query in wanted.items()
        }
        self.queries = nn.ModuleDict(parts)
        width = max(part.dim for part in parts.values()) + output.margin
        self.padding = nn.ParameterDict({name: _query(1, width - part.dim) for name, part in parts.items()})
        qk = config.dim if config.read_width == "memory" else width
        self.block = read_block(width, config.dim, 1, qk, residual=False)
        self.proj = nn.Linear(width, output.width)
        sizes = {name: q.classes if isinstance(q, LabelQuery) else q.values for name, q in wanted.items()}
        self.heads = nn.ModuleDict({name: nn.Linear(output.width, size) for name, size in sizes.items()})

    def forward(self, latents: Tensor, given: Given, points: Points | None = None) -> dict[str, Tensor]:
        """Return signals (B, points, values), of all points or those that are wanted; logits (B, classes).

        Raises:
            ValueError: if points are wanted of a part that isn't there.
        """
        points = points or {}
        if points.keys() - set(self.queries):
            raise ValueError(f"points of {sorted(points)}, but the outputs are {sorted(self.queries)}")
        asked = []
        for name, queries in self.queries.items():
            rows = queries(points.get(name), latents)  # (N, D)
            asked.append(torch.cat([rows, self.padding[name].to(rows.dtype).expand(len(rows), -1)], 1))
        query = torch.cat(asked)[None].expand(len(latents), -1, -1)
        x = self.proj(self.block(query, Ctx(memory=Memory(latents))).x)
        found = dict(zip(self.queries, x.split([len(rows) for rows in asked], 1), strict=True))
        made = {name: self.heads[name](part) for name, part in found.items()}
        return {name: part[:, 0] if name == "label" else part for name, part in made.items()}


def make_output(config: PerceiverConfig, width: int) -> nn.Module:
    """Return the adapter for a config whose input has tokens of this width."""
    output = config.output
    if isinstance(output, TextOutput):
        assert isinstance(config.input, TextInput)
        return TextHead(config, output, config.input)
    if isinstance(output, ClassOutput):
        return ClassHead(config, output)
    if isinstance(output, DenseOutput):
        return DenseHead(config, output, width)
    assert isinstance(output, SeveralOutput)
    return SeveralHeads(config, output)


def _query(rows: int, dim: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(rows, dim), std=0.02))
