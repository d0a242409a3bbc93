"""Where a token stands: added to it, turned into queries and keys, or biasing pairs.

All modules take integer coordinates, never lengths, so that padding, packing and caches need no special case.
Coordinates have shape (B or 1, L), or (B or 1, L, axes) in more than one dimension; a negative one means nowhere.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ALiBi",
    "FixedPositions",
    "GridBuckets",
    "GridRope",
    "LearnedPositions",
    "LogBuckets",
    "RelativeBias",
    "Rope",
    "grid_coords",
    "halves",
    "interpolated",
    "ntk",
    "pairs",
    "resampled",
    "rope_frequencies",
    "sinusoids",
    "sinusoids_2d",
    "yarn",
]


def grid_coords(grid: tuple[int, ...], device: torch.device | str | None = None) -> Tensor:
    """Return the coordinates (1, prod(grid), axes) of a grid, row by row."""
    axes = [torch.arange(n, device=device) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)[None]


class LearnedPositions(nn.Module):
    """A learned table (length, dim), added to the tokens."""

    def __init__(self, length: int, dim: int, std: float = 0.02) -> None:
        super().__init__()
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(length, dim), std=std))

    def forward(self, x: Tensor, coords: Tensor | None = None, start: int = 0) -> Tensor:
        """Add the rows at coords (B or 1, L), by default start to start + L - 1, to x (B, L, dim).

        Raises:
            ValueError: if there are more tokens than rows.
            IndexError: if coords lie beyond the table (on CUDA, a device assertion).
        """
        return x + _rows(self.table, x, coords, start)


class FixedPositions(nn.Module):
    """A table (length, dim) that is not trained, added to the tokens; it is saved with the model."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, x: Tensor, coords: Tensor | None = None, start: int = 0) -> Tensor:
        """Add the rows at coords (B or 1, L), by default start to start + L - 1, to x (B, L, dim).

        Raises:
            ValueError: if there are more tokens than rows.
            IndexError: if coords lie beyond the table (on CUDA, a device assertion).
        """
        return x + _rows(self.table, x, coords, start)


def _rows(table: Tensor, x: Tensor, coords: Tensor | None, start: int) -> Tensor:
    if coords is not None:
        return table[coords.clamp(min=0)].masked_fill((coords < 0)[..., None], 0)
    end = start + x.shape[1]
    if end > len(table):
        raise ValueError(f"{end} tokens, but positions for {len(table)} only")
    return table[start:end]


def resampled(table: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Return a table (prod(old), dim) of positions on one grid for another grid: (prod(new), dim).

    Bicubic with antialiasing, computed in float32, as timm's ``resample_abs_pos_embed``; differentiable.
    """
    if old == new:
        return table
    image = table.float().T.reshape(1, -1, *old)  # (L, D) -> (1, D, h, w)
    image = F.interpolate(image, size=list(new), mode="bicubic", antialias=True)
    return image.flatten(2)[0].T.to(table.dtype)


def sinusoids(length: int, dim: int, base: float = 10000.0) -> Tensor:
    """Return sines, then cosines, of geometric wavelengths from 2 pi to 2 pi base: (length, dim), as Whisper has them.

    The frequencies run from 1 to 1/base with both ends included (Vaswani et al. 2017 leave the last one out).

    Raises:
        ValueError: if dim is odd or less than 4.
    """
    if dim % 2 or dim < 4:
        raise ValueError(f"sinusoidal positions need an even width of at least 4, got {dim}")
    with torch.device("cpu"):  # constants, computed even where a model is only sketched on the meta device
        rate = torch.exp(-math.log(base) / (dim // 2 - 1) * torch.arange(dim // 2))
        angle = torch.arange(length)[:, None] * rate[None]
    return torch.cat([angle.sin(), angle.cos()], 1)


def sinusoids_2d(height: int, width: int, dim: int, base: float = 10000.0, step: float = 1.0) -> Tensor:
    """Return the fixed positions of MAE and DiT, (height * width, dim): half for the column, half for the row.

    Each half holds sines, then cosines, of base ** -(i / (dim/4)); arXiv:2111.06377, ``util/pos_embed.py``.
    ``step`` is the distance between neighbours: 1 there, less where a larger grid covers the same picture (SD3).

    Raises:
        ValueError: if dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"2D sinusoidal positions need a width divisible by 4, got {dim}")
    with torch.device("cpu"):
        rate = base ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
        row, column = (grid_coords((height, width))[0].double() * step).unbind(-1)
    parts = [f(axis[:, None] * rate) for axis in (column, row) for f in (torch.sin, torch.cos)]
    return torch.cat(parts, 1).float()


def rope_frequencies(dim: int, base: float = 10000.0) -> Tensor:
    """Return the dim/2 angular frequencies base ** (-2i/dim) of rotary positions (arXiv:2104.09864)."""
    # on the CPU even inside ``with torch.device("meta")``: they are constants, no checkpoint brings them back
    return 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)


def interpolated(frequencies: Tensor, factor: float) -> Tensor:
    """Stretch positions by ``factor`` (position interpolation, arXiv:2306.15595)."""
    return frequencies / factor


def ntk(dim: int, factor: float, base: float = 10000.0) -> Tensor:
    """Return frequencies whose base is raised so that the lowest one is stretched by ``factor`` (NTK-aware scaling)."""
    return rope_frequencies(dim, base * factor ** (dim / (dim - 2)))


def yarn(
    dim: int, factor: float, original: int, base: float = 10000.0, fast: float = 32.0, slow: float = 1.0
) -> tuple[Tensor, float]:
    """Return YaRN's frequencies and the magnitude of cosine and sine (arXiv:2309.00071, sections 3.2 and 3.4).

    Args:
        dim: width of a head.
        factor: how many times longer than trained.
        original: the length trained on, in tokens.
        fast, slow: rotations within ``original`` above which a frequency is kept, and below which it is stretched.
    """

    def at(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(at(fast)), 0), min(math.ceil(at(slow)), dim - 1)
    plain = rope_frequencies(dim, base)
    ramp = ((torch.arange(dim // 2, device=plain.device) - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain * (1 - ramp) + plain / factor * ramp, 0.1 * math.log(max(factor, 1.0)) + 1.0


def halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x (..., d) where channel i is paired with i + d/2 (GPT-NeoX, Llama in Hugging Face); cos, sin (..., d/2)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x (..., d) where channel 2i is paired with 2i + 1 (RoFormer, Llama as published); cos, sin (..., d/2)."""
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


class _Constants(nn.Module):
    """A module with float32 constants that are not saved with the weights.

    ``model.to(bfloat16)`` moves them and must not round them: angles would be wrong by whole turns. A start on the meta
    device followed by ``to_empty`` must bring their values back. Hence a copy that stays on the CPU.
    """

    def __init__(self, **values: Tensor) -> None:
        super().__init__()
        self._exact = {name: value.detach().float().cpu() for name, value in values.items()}
        for name, value in self._exact.items():
            self.register_buffer(name, value.to(torch.get_default_device()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name, value in self._exact.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self


class Rope(_Constants):
    """Rotary positions (arXiv:2104.09864), in one or more dimensions.

    Each axis of the coordinates turns its own share of the channels by its n frequencies; channels beyond 2 * axes * n
    are left alone, and so are tokens that stand nowhere.

    Args:
        frequencies: radians per step, (n,) for every axis or (axes, n): :func:`rope_frequencies`,
            :func:`interpolated`, :func:`ntk`, :func:`yarn`.
        turn: how channels are paired: :func:`halves` or :func:`pairs`.
        magnitude: factor of cosine and sine (YaRN).
    """

    frequencies: Tensor

    def __init__(
        self,
        frequencies: Tensor,
        turn: Callable[[Tensor, Tensor, Tensor], Tensor] = halves,
        magnitude: float = 1.0,
    ) -> None:
        super().__init__(frequencies=frequencies)
        self.turn = turn
        self.magnitude = magnitude

    def forward(self, x: Tensor, coords: Tensor) -> Tensor:
        """Turn x (B, heads, L, d) by coords (B or 1, L) or (B or 1, L, axes); computed in float32 at least."""
        return self.turned(x, (coords[..., None] if coords.ndim == 2 else coords).clamp(min=0))

    def turned(self, x: Tensor, place: Tensor) -> Tensor:
        """Turn x (B, heads, L, d) by places (B or 1, L, axes), which may be fractions."""
        angle = (place[..., None] * self.frequencies).flatten(-2)[:, None]  # (B, 1, L, axes * n)
        cos, sin = angle.cos() * self.magnitude, angle.sin() * self.magnitude
        width = 2 * angle.shape[-1]
        wide = x[..., :width].to(torch.promote_types(x.dtype, torch.float32))
        turned = self.turn(wide, cos, sin).to(x.dtype)
        return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], -1)


class GridRope(Rope):
    """Rotary positions relative to the size of the picture (DINOv3, arXiv:2508.10104).

    Coordinates are (row, column, height, width) of the token's grid. Each axis runs from -1 to 1 from border to border,
    whatever the size, and turns a quarter of the channels' pairs by 2 pi / period, the periods being
    base ** (4i / head_dim).

    Args:
        head_dim: width of a head.
        base: of the periods.
    """

    def __init__(self, head_dim: int, base: float = 100.0) -> None:
        super().__init__(2 * math.pi * rope_frequencies(head_dim // 2, base))

    def forward(self, x: Tensor, coords: Tensor) -> Tensor:
        """Turn x (B, heads, L, d) by coords (B or 1, L, 4); negative rows are nowhere and not turned."""
        place, size = coords.float().chunk(2, -1)
        centred = (2 * place + 1) / size - 1
        return self.turned(x, centred.masked_fill(place < 0, 0.0))


class ALiBi(_Constants):
    """A penalty in proportion to the distance (arXiv:2108.12409): slope * -|query - key|, one slope per head."""

    slopes: Tensor

    def __init__(self, heads: int) -> None:
        power = 2 ** math.floor(math.log2(heads))
        slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
        # heads beyond a power of two take every other slope of the next power, as the paper's code does
        slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
        super().__init__(slopes=torch.tensor(slopes, device="cpu"))

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the bias (B or 1, heads, L, S) of coords q (B or 1, L) and k (B or 1, S)."""
        distance = (q[:, None, :, None] - k[:, None, None, :]).abs()
        return -self.slopes[:, None, None] * distance


class RelativeBias(nn.Module):
    """A learned bias for each head and bucket of relative positions (T5, Swin).

    Args:
        heads: number of heads.
        buckets: module that maps coords q and k to bucket numbers, with its ``count``.
    """

    def __init__(self, heads: int, buckets: "LogBuckets | GridBuckets", std: float = 0.02) -> None:
        super().__init__()
        self.buckets = buckets
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(buckets.count, heads), std=std))

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the bias (B or 1, heads, L, S) of coords q and k."""
        return self.table[self.buckets(q, k)].permute(0, 3, 1, 2)  # (B, L, S, h) -> (B, h, L, S)


class LogBuckets(nn.Module):
    """T5's buckets: exact for near keys, logarithmic up to ``far``, all further ones together (arXiv:1910.10683).

    Args:
        count: number of buckets.
        far: distance from which all share the last bucket.
        both_ways: whether later keys have buckets of their own (encoders) or count as distance 0 (decoders).
    """

    def __init__(self, count: int = 32, far: int = 128, both_ways: bool = True) -> None:
        super().__init__()
        self.count = count
        self.far = far
        self.both_ways = both_ways

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """Return bucket numbers (B or 1, L, S) of coords q (B or 1, L) and k (B or 1, S)."""
        ahead = k[:, None, :] - q[:, :, None]
        count = self.count // 2 if self.both_ways else self.count
        offset = (ahead > 0) * count if self.both_ways else 0
        distance = ahead.abs() if self.both_ways else (-ahead).clamp(min=0)
        near = count // 2
        ratio = torch.log(distance.clamp(min=1).float() / near) / math.log(self.far / near)
        spread = (near + (ratio * (count - near)).long()).clamp(max=count - 1)
        return offset + torch.where(distance < near, distance, spread)


class GridBuckets(nn.Module):
    """One bucket for each displacement within a window of ``size`` (height, width): Swin's (arXiv:2103.14030)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.count = (2 * size[0] - 1) * (2 * size[1] - 1)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """Return bucket numbers (B or 1, L, S) of coords q (B or 1, L, 2) and k (B or 1, S, 2)."""
        height, width = self.size
        dy, dx = (q[:, :, None] - k[:, None, :]).unbind(-1)
        return (dy + height - 1) * (2 * width - 1) + dx + width - 1
