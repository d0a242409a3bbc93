"""Swin Transformer, both versions (Liu et al. 2021, arXiv:2103.14030 and arXiv:2111.09883)."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from core.nn import (
    Attention,
    Block,
    Ctx,
    DropPath,
    GridBuckets,
    Heads,
    LayerNorm,
    Mlp,
    Out,
    PatchEmbed,
    RelativeBias,
    Residual,
    RollThenPad,
    Stack,
    Windowed,
    attention,
    direct,
    patch_grid,
    trunc_normal,
)
from core.nn.block import Run
from core.nn.continuous import ContinuousBias
from core.nn.cosine import ScaledUnit, Unit

from .pool import MeanPool

__all__ = ["PatchMerge", "Stage", "Swin", "SwinConfig", "Windows", "stage_windows"]


@dataclass(frozen=True)
class SwinConfig:
    """The shape of a Swin Transformer.

    Attributes:
        version: 1, or 2: cosine attention, continuous position bias, norms after the branches.
        image: (height, width) in pixels for which windows are chosen: where a stage's grid is no larger than its
            window, the window (in version 1 its bias table too) is cut down to it, and not shifted. Other sizes work.
        patch: side of a square patch in pixels.
        channels: of the image.
        dim: width of the first stage; it doubles with each.
        depths, heads, windows: number of blocks, number of heads and side of a window of each stage.
        trained: in version 2, the windows that the weights were trained with, where those are larger; empty = the same.
        mlp_ratio: width of the feed-forward branch over that of the stage.
        classes: outputs of the head; 0 = no head, the model returns the pooled features.
        padding: where a window does not divide a grid: ``"rolled"`` = shift, then pad (timm), or ``"straight"`` = pad,
            then shift (torchvision, Hugging Face, the authors' detector). Without padding they are equal. Straight
            windows of version 1 are never cut down, and shifted wherever a grid is larger than they are.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first.
        eps: of the norms.
    """

    version: Literal[1, 2] = 1
    image: tuple[int, int] = (224, 224)
    patch: int = 4
    channels: int = 3
    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    windows: tuple[int, ...] = (7, 7, 7, 7)
    trained: tuple[int, ...] = ()
    mlp_ratio: float = 4.0
    classes: int = 1000
    padding: Literal["rolled", "straight"] = "rolled"
    drop_path: float = 0.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        patch_grid(self.image, (self.patch, self.patch))
        stages = len(self.depths)
        if stages == 0 or {len(self.heads), len(self.windows), len(self.trained) or stages} != {stages}:
            raise ValueError(
                f"depths {self.depths}, heads {self.heads}, windows {self.windows} and trained {self.trained} "
                "should have one number for each stage"
            )
        if min(*self.depths, *self.heads, *self.windows) < 1:
            raise ValueError("depths, heads and windows should be 1 or more")

    @property
    def width(self) -> int:
        """Width of the last stage."""
        return self.dim * 2 ** (len(self.depths) - 1)


class Swin(nn.Module):
    """A hierarchical image encoder with attention in shifted windows, with a linear head if there are classes.

    Args:
        config: its shape.
        run: how to run a block: :func:`core.nn.direct` or :func:`core.nn.recomputed` (less memory in training).
    """

    def __init__(self, config: SwinConfig = SwinConfig(), *, run: Run = direct) -> None:
        super().__init__()
        self.config = config
        self.patch = PatchEmbed(config.channels, config.dim, (config.patch, config.patch))
        self.patch_norm = LayerNorm(config.dim, eps=config.eps)
        self.levels = nn.ModuleList(_stage(config, number, run) for number in range(len(config.depths)))
        self.norm = LayerNorm(config.width, eps=config.eps)
        self.pool = MeanPool(0, nn.Identity())
        self.head = nn.Linear(config.width, config.classes) if config.classes else nn.Identity()
        trunc_normal(self)
        if config.version == 2:
            _silence(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes), or pooled features (B, width) without a head, of images (B, C, H, W)."""
        return self.head(self.pool(self.features(images).x))

    def features(self, images: Tensor, want: Any = None) -> Out:
        """Return the normalised tokens (B, h * w, width) of the last stage, row by row, and what was wanted.

        Args:
            images: (B, C, H, W) of any size that is a multiple of the patch.
            want: what to capture, e.g. ``{3: {1: {"attn": True, "hidden": True}}}`` of block 1 of stage 3. Attention
                is by windows: (B * windows, heads, window, window).

        Raises:
            ValueError: if the size is not a multiple of the patch.
        """
        maps, notes = self._stages(images, want)
        return Out(self.norm(maps[-1]).flatten(1, 2), notes)  # (B, h, w, D) -> (B, h * w, D)

    def dense(self, images: Tensor) -> Tensor:
        """Return the normalised feature map (B, width, h, w) of the last stage.

        Raises:
            ValueError: if the size is not a multiple of the patch.
        """
        return self.norm(self._stages(images)[0][-1]).permute(0, 3, 1, 2)  # (B, h, w, D) -> (B, D, h, w)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Return the feature map (B, D_i, h_i, w_i) at the end of each stage, not normalised.

        Raises:
            ValueError: if the size is not a multiple of the patch.
        """
        return [x.permute(0, 3, 1, 2) for x in self._stages(images)[0]]  # (B, h, w, D) -> (B, D, h, w)

    def _stages(self, images: Tensor, want: Any = None) -> tuple[list[Tensor], dict[Any, Any]]:
        x = self.patch_norm(self.patch(images)).unflatten(1, self.patch.grid(images))  # (B, h * w, D) -> (B, h, w, D)
        ctx = Ctx(want=want)
        unknown = [] if want is None else [number for number in want if number not in range(len(self.levels))]
        if unknown:
            raise ValueError(f"no stage {unknown[0]!r} to capture from: there are {len(self.levels)}")
        maps: list[Tensor] = []
        notes: dict[Any, Any] = {}
        for number, stage in enumerate(self.levels):
            x, found = stage(x, ctx.at(number))
            maps.append(x)
            if found:
                notes[number] = found
        return maps, notes


class Stage(nn.Module):
    """Blocks of one width, after the merging of patches that leads to it.

    Args:
        blocks: each maps (x, ctx) to :class:`Out`.
        merge: what comes before, None in the first stage.
        run: how to run a block.
    """

    def __init__(self, blocks: Iterable[Block], merge: nn.Module | None = None, *, run: Run = direct) -> None:
        super().__init__()
        self.merge = merge
        self.stack = Stack(blocks, run=run)

    def forward(self, x: Tensor, ctx: Ctx = Ctx()) -> Out:
        """Map (B, H, W, D) to (B, h, w, d)."""
        return self.stack(x if self.merge is None else self.merge(x), ctx)


class PatchMerge(nn.Module):
    """Four neighbours become one token; an odd last row or column is paired with zeros.

    Args:
        project: from four times the width to the new one.
    """

    def __init__(self, project: nn.Module) -> None:
        super().__init__()
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, D) to (B, H/2, W/2, d), rounded up."""
        below, right = x.shape[1] % 2, x.shape[2] % 2
        if below or right:
            x = F.pad(x, (0, 0, 0, right, 0, below))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, h, 2 rows, w, 2 columns, D)
        return self.project(x.permute(0, 1, 3, 4, 2, 5).flatten(3))  # column before row, as they were trained


class Windows(NamedTuple):
    """How a stage is cut into windows: size and shift, of a grid for images of the configured size."""

    grid: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int]


def stage_windows(config: SwinConfig, number: int) -> Windows:
    """Return the windows of a stage; its even blocks are not shifted."""
    height, width = (-(-side // (config.patch * 2**number)) for side in config.image)
    whole = config.windows[number]
    if config.padding == "straight" and config.version == 1:
        return Windows((height, width), (whole, whole), (whole // 2, whole // 2))
    shift = (whole // 2 if height > whole else 0, whole // 2 if width > whole else 0)
    return Windows((height, width), (min(height, whole), min(width, whole)), shift)


def _stage(config: SwinConfig, number: int, run: Run) -> Stage:
    dim = config.dim * 2**number
    _, window, shift = stage_windows(config, number)
    first, last = sum(config.depths[:number]), max(sum(config.depths) - 1, 1)
    make = {1: _block, 2: _block_v2}[config.version]
    blocks = (
        make(config, number, window, shift if i % 2 else (0, 0), config.drop_path * (first + i) / last)
        for i in range(config.depths[number])
    )
    return Stage(blocks, _merge(config, dim) if number else None, run=run)


def _windowed(config: SwinConfig, fn: nn.Module, window: tuple[int, int], shift: tuple[int, int]) -> Windowed:
    kind = {"rolled": RollThenPad, "straight": Windowed}[config.padding]
    return kind(fn, window, shift)


def _block(config: SwinConfig, number: int, window: tuple[int, int], shift: tuple[int, int], rate: float) -> Block:
    dim, heads = config.dim * 2**number, config.heads[number]

    def residual(fn: nn.Module) -> Residual:
        return Residual(LayerNorm(dim, eps=config.eps), fn, DropPath(rate) if rate > 0 else None)

    fn = attention(dim, heads, pair_bias=RelativeBias(heads, GridBuckets(window)))
    return Block(
        attn=residual(_windowed(config, fn, window, shift)),
        mlp=residual(Mlp(dim, int(dim * config.mlp_ratio))),
    )


def _block_v2(config: SwinConfig, number: int, window: tuple[int, int], shift: tuple[int, int], rate: float) -> Block:
    dim, heads = config.dim * 2**number, config.heads[number]
    if dim % heads:
        raise ValueError(f"{heads} heads do not divide a width of {dim}: change one of them")
    side = config.trained[number] if config.trained else 0

    def residual(fn: nn.Module) -> Residual:
        post: list[nn.Module] = [LayerNorm(dim, eps=config.eps)]
        if rate > 0:
            post.append(DropPath(rate))
        return Residual(nn.Identity(), fn, nn.Sequential(*post))

    fn = Attention(
        Heads(dim, heads, dim // heads, norm=ScaledUnit(heads)),
        Heads(dim, heads, dim // heads, norm=Unit(), bias=False),
        Heads(dim, heads, dim // heads),
        nn.Linear(dim, dim),
        bias=ContinuousBias(heads, window, (side, side) if side else None),
        scale=1.0,
    )
    return Block(
        attn=residual(_windowed(config, fn, window, shift)),
        mlp=residual(Mlp(dim, int(dim * config.mlp_ratio))),
    )


def _merge(config: SwinConfig, dim: int) -> PatchMerge:
    reduction = nn.Linear(2 * dim, dim, bias=False)
    if config.version == 1:
        parts = [("norm", LayerNorm(2 * dim, eps=config.eps)), ("reduction", reduction)]
    else:
        parts = [("reduction", reduction), ("norm", LayerNorm(dim, eps=config.eps))]
    return PatchMerge(nn.Sequential(OrderedDict(parts)))


def _silence(model: Swin) -> None:
    """Start every branch at zero (arXiv:2111.09883, section 3.2)."""
    for module in model.modules():
        if isinstance(module, Residual) and isinstance(module.post, nn.Sequential):
            norm = module.post[0]
            assert isinstance(norm, LayerNorm)
            nn.init.zeros_(norm.weight)
            nn.init.zeros_(norm.bias)
