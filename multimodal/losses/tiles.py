"""The logits of a batch, tile by tile: what a loss does to a tile happens in cache, and B x N never exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy

import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["Look", "Totals", "full", "inner", "paired", "product", "tiles", "visit"]

Look = Callable[[Tensor, Tensor, slice, slice], Tensor | None]

CACHED = 512  # rows and columns of a tile that stays in a core's second-level cache, in float32
PARALLEL = 4096  # of a tile that keeps a GPU busy


def full(x: Tensor) -> torch.dtype:
    """The dtype in which sums over `x` are made: float32, or float64 if `x` is."""
    return torch.promote_types(x.dtype, torch.float32)


def tiles(x: Tensor) -> Iterator[slice]:
    """Cut the rows of `x` (N, ...) into the tiles' slices."""
    size = CACHED if x.device.type == "cpu" else PARALLEL
    return (slice(at, min(at + size, len(x))) for at in range(0, len(x), size))


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """The matrix product of two tensors of one dtype, summed up and returned in `full` of it."""
    wide = full(a)
    if a.is_cuda and a.dtype != wide:
        return torch.mm(a, b, out_dtype=wide, out=out)
    return torch.mm(a.to(wide), b.to(wide), out=out)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner products of the rows of `a` and `b` (N, D): (N,) in float64."""
    return torch.cat([(a[rows] * b[rows].to(full(a))).sum(1, dtype=torch.float64) for rows in tiles(a)])


class Totals:
    """Sums over tiles of the gradient with respect to the logits G (B, N), as far as they are wanted.

    Args:
        image: (B, D).
        text: (N, D), of the same dtype.
        wanted: whether the image features, the text features, the scale and the bias need a gradient.

    Attributes:
        image: G @ text (B, D), in `full` of the features; ``None`` if neither images nor scale need it.
        text: G.T @ image (N, D), likewise.
        bias: the sum of G, float64, likewise.
    """

    def __init__(self, image: Tensor, text: Tensor, wanted: Sequence[bool]) -> None:
        self.wanted = wanted
        self.image = torch.zeros_like(image, dtype=full(image)) if wanted[0] or wanted[2] else None
        self.text = torch.zeros_like(text, dtype=full(text)) if wanted[1] else None
        self.bias = image.new_zeros((), dtype=torch.float64) if wanted[3] else None

    def beside(self, text: Tensor) -> Totals:
        """Totals for the same images and other texts: what sums over both is shared."""
        other = copy(self)
        other.text = None if self.text is None else torch.zeros_like(text, dtype=full(text))
        return other

    def add(self, gradient: Tensor, image: Tensor, text: Tensor, rows: slice, columns: slice) -> None:
        """Count one tile of G in."""
        if self.bias is not None:
            self.bias += gradient.sum(dtype=gradient.dtype)
        gradient = gradient.to(image.dtype)  # its entries are of order 1: nothing is lost in half precision
        if self.image is not None:
            accumulate(self.image[rows], gradient, text[columns])
        if self.text is not None:
            accumulate(self.text[columns], gradient.T, image[rows])

    def gradients(self, image: Tensor, scale: Tensor, share: float) -> list[Tensor | None]:
        """The gradients of `share` times the loss for image, text, scale and bias; ends the life of the totals."""
        by_scale = by_bias = None
        if self.wanted[2] and self.image is not None:
            by_scale = (inner(self.image, image).sum() * share).to(scale.dtype)
        if self.bias is not None:
            by_bias = (self.bias * share).to(scale.dtype)
        by_image = self.image.mul_(scale * share) if self.wanted[0] and self.image is not None else None
        by_text = self.text.mul_(scale * share) if self.text is not None else None
        return [by_image, by_text, by_scale, by_bias]


def accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the matrix product of `a` and `b` to `total`."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += product(a, b)


def visit(image: Tensor, text: Tensor, scale: Tensor, look: Look, totals: Totals | None = None) -> None:
    """Show `look` every tile of scale * image @ text.T, and sum up the gradients that it returns.

    Args:
        image: (B, D).
        text: (N, D), of the same dtype.
        scale: 0-d.
        look: given a tile, a spare one of its shape, its rows and its columns; it may write to both, and returns the
            tile's gradient, in either of them or elsewhere, if there are totals.
        totals: where the gradients go.
    """
    scale = scale.to(full(image))
    # the same memory for all tiles: it stays in cache, and the heap whole
    most = next(tiles(image)).stop * next(tiles(text)).stop
    memory = image.new_empty(2, most, dtype=full(image))
    for rows in tiles(image):
        for columns in tiles(text):
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            logits, spare = memory[:, : shape[0] * shape[1]].view(2, *shape)
            product(image[rows], text[columns].T, out=logits).mul_(scale)
            gradient = look(logits, spare, rows, columns)
            if totals is not None and gradient is not None:
                totals.add(gradient, image, text, rows, columns)


def paired(image: Tensor, text: Tensor) -> torch.dtype:
    """The dtype in which to compare the features of images and texts.

    Raises `InputError` if they aren't two matrices of one shape with at least one row.
    """
    if image.ndim != 2 or image.shape != text.shape or not len(image):
        raise InputError(
            f"image features {tuple(image.shape)} and text features {tuple(text.shape)} don't pair up: "
            "both should be (B, D), with B of at least 1"
        )
    return torch.promote_types(image.dtype, text.dtype)
