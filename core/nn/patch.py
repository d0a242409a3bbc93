"""Signals to patches and back, in one, two or three dimensions."""

import math
from typing import Literal

from torch import Tensor, nn

__all__ = ["PatchEmbed", "patch_grid", "patchify", "unpatchify"]

Order = Literal["channels first", "channels last"]


def patch_grid(size: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many patches lie along each axis.

    Raises:
        ValueError: if a patch does not divide its axis.
    """
    if len(size) != len(patch) or any(n % p or n == 0 for n, p in zip(size, patch, strict=True)):
        raise ValueError(f"patches of {patch} do not divide an input of {size}: resize or pad it to multiples")
    return tuple(n // p for n, p in zip(size, patch, strict=True))


def patchify(x: Tensor, patch: tuple[int, ...], order: Order = "channels first") -> Tensor:
    """Cut (B, C, *size) into patches: (B, number of patches, C * prod(patch)), row by row.

    Args:
        x: a sequence (B, C, T), images (B, C, H, W) or videos (B, C, T, H, W).
        patch: size of a patch along each axis.
        order: of the values inside a patch: ``"channels first"`` is that of a convolution's kernel,
            ``"channels last"`` that of MAE's targets and DiT's outputs.

    Raises:
        ValueError: if a patch does not divide its axis.
    """
    axes = len(patch)
    grid = patch_grid(tuple(x.shape[2:]), patch)
    x = x.reshape(*x.shape[:2], *(n for pair in zip(grid, patch, strict=True) for n in pair))  # (B, C, g1, p1, g2, p2)
    outer, inner = [2 + 2 * i for i in range(axes)], [3 + 2 * i for i in range(axes)]
    inside = [1, *inner] if order == "channels first" else [*inner, 1]
    return x.permute(0, *outer, *inside).reshape(x.shape[0], math.prod(grid), -1)


def unpatchify(x: Tensor, patch: tuple[int, ...], grid: tuple[int, ...], order: Order = "channels first") -> Tensor:
    """Undo :func:`patchify`: (B, prod(grid), C * prod(patch)) -> (B, C, *size)."""
    axes = len(patch)
    rows = x.shape[0]
    if order == "channels first":
        x = x.reshape(rows, *grid, -1, *patch)
        channel, inner = 1 + axes, [2 + axes + i for i in range(axes)]
    else:
        x = x.reshape(rows, *grid, *patch, -1)
        channel, inner = 1 + 2 * axes, [1 + axes + i for i in range(axes)]
    woven = [axis for pair in zip(range(1, 1 + axes), inner, strict=True) for axis in pair]
    x = x.permute(0, channel, *woven)
    return x.reshape(rows, x.shape[1], *(g * p for g, p in zip(grid, patch, strict=True)))


class PatchEmbed(nn.Module):
    """Cut into patches and project each: what a convolution with stride = kernel does, as one matrix product.

    Args:
        channels: of the input.
        dim: width of the tokens.
        patch: size of a patch along each axis.
        bias: whether the projection has a bias.
    """

    def __init__(self, channels: int, dim: int, patch: tuple[int, ...], *, bias: bool = True) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(channels * math.prod(patch), dim, bias=bias)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embed (B, C, *size) -> (B, number of patches, dim), or only those (B, K) that are kept -> (B, K, dim)."""
        patches = patchify(x, self.patch)
        if keep is not None:
            patches = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[2]))  # (B, N, P) -> (B, K, P)
        return self.proj(patches)

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """Return how many patches lie along each axis of x (B, C, *size)."""
        return patch_grid(tuple(x.shape[2:]), self.patch)
