"""Sines and cosines of continuous positions (Perceiver, arXiv:2103.03206, section 3.2)."""

import math

import torch
from torch import Tensor, nn

__all__ = ["FourierPositions", "from_border_to_border", "points_of"]


class FourierPositions(nn.Module):
    """Positions in [-1, 1] to features: themselves, then sines, then cosines, each axis by axis.

    The frequencies of an axis run evenly from 1 to half its resolution, the highest that a grid of that many points
    can tell apart; the angle is pi * frequency * position.

    Args:
        bands: frequencies for each axis.
        resolution: points along each axis at which the highest frequency is Nyquist's.
        plain: whether the positions themselves come first.
    """

    def __init__(self, bands: int, resolution: tuple[int, ...], plain: bool = True) -> None:
        super().__init__()
        self.bands = bands
        self.resolution = resolution
        self.plain = plain

    @property
    def axes(self) -> int:
        """Of the positions."""
        return len(self.resolution)

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.axes * (2 * self.bands + int(self.plain))

    def forward(self, places: Tensor) -> Tensor:
        """Return the features (..., dim) of places (..., axes), in float32.

        The products are formed in the order of the published code: in float32 the sine of a large angle, as audio has
        it, depends on that.
        """
        # made anew each time: a buffer would be lost on the meta device, and rounded by model.to(bfloat16)
        bands = torch.stack([torch.linspace(1.0, n / 2, self.bands, device=places.device) for n in self.resolution])
        angle = math.pi * (places.float()[..., None] * bands).flatten(-2)  # (..., axes, bands) -> (..., axes * bands)
        features = torch.cat([angle.sin(), angle.cos()], -1)
        return torch.cat([places.float(), features], -1) if self.plain else features


def from_border_to_border(grid: tuple[int, ...], device: torch.device | str | None = None) -> Tensor:
    """Return the places (prod(grid), axes) of a grid whose first point lies at -1 and whose last lies at 1."""
    axes = [torch.linspace(-1.0, 1.0, n, device=device) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def points_of(numbers: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Return the places (N, axes) of some points of a grid, by their numbers (N,) row by row.

    Number i of n along an axis lies at 2 i / n - 1, so the last one lies before 1: what Perceiver IO decodes by
    (arXiv:2107.14795), though it encodes :func:`from_border_to_border`.
    """
    index = torch.stack(torch.unravel_index(numbers, grid), 1)
    return -1 + 2 * index / torch.tensor(grid, device=numbers.device)[None]
