"""Adapters in: what a Perceiver reads, as one sequence of tokens.

Each maps its input to :class:`Given` and says how wide its tokens are (``dim``).
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.nn import FourierPositions, LearnedPositions, from_border_to_border, patchify
from multimodal.perceiver.config import (
    ConvInput,
    Fourier,
    Input,
    LabelInput,
    Learned,
    Part,
    Positions,
    SeveralInput,
    SignalInput,
    TextInput,
)

__all__ = ["ConvTokens", "Given", "LabelTokens", "SeveralTokens", "SignalTokens", "TextTokens", "make_input"]


class Given(NamedTuple):
    """What an adapter has made.

    Attributes:
        x: (B, S, D).
        grid: the shape of the places, whose product is S.
        table: (vocab, D), the embeddings of a text.
    """

    x: Tensor
    grid: tuple[int, ...]
    table: Tensor | None = None


class GridPositions(nn.Module):
    """Positions of the places of a grid, to be joined to what stands there."""

    def __init__(self, positions: Positions) -> None:
        super().__init__()
        self.fourier: FourierPositions | None = None
        self.table: nn.Parameter | None = None
        self.project: nn.Module = nn.Identity()
        if isinstance(positions, Fourier):
            self.fourier = FourierPositions(positions.bands, positions.resolution)
            self.dim = self.fourier.dim
        elif isinstance(positions, Learned):
            self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(positions.count, positions.dim), std=0.02))
            self.dim = positions.project or positions.dim
            if positions.project is not None:
                self.project = nn.Linear(positions.dim, positions.project)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Join the positions to x (B, prod(grid), D): (B, prod(grid), D + dim).

        Raises:
            ValueError: if the grid has another number of axes, or of places, than the positions.
        """
        if self.fourier is not None:
            axes = self.fourier.axes
            spare, own = grid[: len(grid) - axes], grid[len(grid) - axes :]
            if len(grid) < axes or prod(spare) != 1:
                raise ValueError(f"an input of {grid} places, but positions with {axes} axes")
            rows = self.fourier(from_border_to_border(own, x.device)).to(x.dtype)
        else:
            assert self.table is not None
            if prod(grid) != len(self.table):
                raise ValueError(f"an input of {grid} places, but {len(self.table)} learned positions")
            rows = self.project(self.table)
        return torch.cat([x, rows.expand(len(x), -1, -1)], -1)


class SignalTokens(nn.Module):
    """See :class:`SignalInput`."""

    def __init__(self, config: SignalInput) -> None:
        super().__init__()
        self.config = config
        width = config.channels * prod(config.patch)
        self.proj = nn.Identity() if config.project is None else nn.Linear(width, config.project)
        self.positions = GridPositions(config.positions)
        self.dim = (config.project or width) + self.positions.dim

    def forward(self, signal: Tensor) -> Given:
        """Cut (B, channels, *size) into patches; a waveform may be (B, samples).

        Raises:
            ValueError: if it has another number of channels or axes, or a patch does not divide it.
        """
        channels, patch = self.config.channels, self.config.patch
        if signal.ndim == 2 and len(patch) == channels == 1:
            signal = signal[:, None]
        if signal.ndim != 2 + len(patch) or signal.shape[1] != channels:
            raise ValueError(
                f"an input of shape {tuple(signal.shape)}, expected (batch, {channels}, and {len(patch)} axes)"
            )
        # pixel by pixel, as the published patches are
        x = self.proj(patchify(signal, patch, "channels last"))
        grid = tuple(n // p for n, p in zip(signal.shape[2:], patch, strict=True))
        return Given(self.positions(x, grid), grid)


class ConvTokens(nn.Module):
    """See :class:`ConvInput`: 7 x 7 convolution, batch norm, ReLU and max pooling, each halving the sides."""

    def __init__(self, config: ConvInput) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.channels, config.features, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(config.features)
        self.pool = nn.MaxPool2d(3, stride=2)
        self.positions = GridPositions(config.positions)
        self.dim = config.features + self.positions.dim

    def forward(self, images: Tensor) -> Given:
        """Featurise images (B, channels, H, W)."""
        x = self.pool(self.norm(self.conv(images)).relu())
        grid = tuple(x.shape[2:])
        return Given(self.positions(x.flatten(2).transpose(1, 2), grid), grid)  # (B, D, h, w) -> (B, h * w, D)


class TextTokens(nn.Module):
    """See :class:`TextInput`."""

    def __init__(self, config: TextInput) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab, config.dim)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.positions = LearnedPositions(config.context, config.dim)
        self.dim = config.dim

    def forward(self, ids: Tensor) -> Given:
        """Embed ids (B, L) int64.

        Raises:
            ValueError: if there are more than there are positions.
        """
        return Given(self.positions(self.tokens(ids)), (ids.shape[1],), self.tokens.weight)


class LabelTokens(nn.Module):
    """See :class:`LabelInput`."""

    def __init__(self, config: LabelInput) -> None:
        super().__init__()
        self.dim = config.classes

    def forward(self, label: Tensor) -> Given:
        """Take (B, classes) as one token."""
        return Given(label[:, None], (1,))


class SeveralTokens(nn.Module):
    """See :class:`SeveralInput`."""

    def __init__(self, config: SeveralInput) -> None:
        super().__init__()
        named = {name: getattr(config, name) for name in ("audio", "image", "label", "text")}
        given: dict[str, Part] = {name: part for name, part in named.items() if part is not None}
        parts = {name: make_input(part.input) for name, part in given.items()}
        self.parts = nn.ModuleDict(parts)
        self.dim: int = max(part.dim for part in parts.values()) + config.margin
        self.hidden = {name: part.hidden for name, part in given.items() if part.hidden is not None}
        self.padding = _vectors({name: self.dim - part.dim for name, part in parts.items()})
        self.mask = _vectors(dict.fromkeys(self.hidden, self.dim))

    def forward(self, inputs: Mapping[str, Tensor]) -> Given:
        """Join the parts: each as its own adapter takes it.

        Raises:
            ValueError: if a part is missing, or there is another one.
        """
        if inputs.keys() != set(self.parts):
            raise ValueError(f"the inputs are {sorted(inputs)}, expected {sorted(self.parts)}")
        found = []
        for name, adapter in self.parts.items():
            x = adapter(inputs[name]).x
            x = torch.cat([x, self.padding[name].to(x.dtype).expand(*x.shape[:2], -1)], -1)
            found.append(self._hide(name, x))
        x = torch.cat(found, 1)
        return Given(x, (x.shape[1],))

    def _hide(self, name: str, x: Tensor) -> Tensor:
        rate = self.hidden.get(name, 0.0)
        if rate == 0 or (rate < 1 and not self.training):
            return x
        drawn = torch.rand(x.shape[:2], device=x.device) < rate
        return torch.where(drawn[..., None], self.mask[name].to(x.dtype), x)


def make_input(config: Input) -> Any:
    """Return the adapter for a config."""
    makers: dict[type, Any] = {
        SignalInput: SignalTokens,
        ConvInput: ConvTokens,
        TextInput: TextTokens,
        LabelInput: LabelTokens,
        SeveralInput: SeveralTokens,
    }
    return makers[type(config)](config)


def _vectors(widths: Mapping[str, int]) -> nn.ParameterDict:
    return nn.ParameterDict({name: nn.Parameter(torch.randn(1, width) * 0.02) for name, width in widths.items()})
