"""Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) and those that differ from it in a module or two.

DeiT, DeiT III, MAE's encoder, DINO, DINOv2, DINOv3 and the image towers of CLIP and SigLIP are all this one class:
``presets.py`` says how.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.nn import (
    Block,
    ConvStem,
    Ctx,
    FixedPositions,
    GridRope,
    LayerNorm,
    LayerScale,
    LearnedPositions,
    Mlp,
    Out,
    PatchEmbed,
    QuickGELU,
    Residual,
    Stack,
    Stochastic,
    SwiGLU,
    Tokens,
    attention,
    direct,
    grid_coords,
    packed_tokens,
    patch_grid,
    recomputed,
    resampled,
    sinusoids_2d,
    trunc_normal,
)

from .pool import AttentionPool, ClassPool, MeanPool, TwoHeads, TwoTokens

__all__ = ["ViT", "ViTConfig"]


@dataclass(frozen=True)
class ViTConfig:
    """The shape of a ViT.

    Attributes:
        image: (height, width) in pixels that positions are learned for; others are possible (:meth:`ViT.features`).
        patch: side of a square patch in pixels.
        patch_bias: whether the projection of the patches has a bias.
        stem: how patches become tokens: each by itself (``"patches"``), or by convolutions (``"convolutions"``), which
            learn faster from little data.
        channels: of the image.
        dim, depth, heads: width, number of blocks, number of heads.
        hidden: width of the feed-forward branch, default 4 * dim.
        mlp: the feed-forward branch: exact GELU, its tanh approximation, CLIP's ``x * sigmoid(1.702 x)``, or SwiGLU.
        bias: the projections of the attention that have one, out of ``"qkvo"``.
        qk_norm: whether queries and keys are normalised in each head (arXiv:2302.05442).
        classes: outputs of the head; 0 = no head, the model returns the pooled features.
        pool: how tokens become one vector: the class token, the mean of the patches and then the norm (``"mean"``),
            the norm and then the mean (``"normed mean"``), attention (``"map"``), or class and distillation token with
            a head each (``"distilled"``).
        cls_token: whether there is a class token.
        distilled: whether DeiT's distillation token (arXiv:2012.12877) comes after it.
        registers: number of register tokens (arXiv:2309.16588).
        mask_token: whether there is a token for masked patches (iBOT).
        positions: learned for all tokens (``"all"``), all but registers (``"no registers"``) or ``"patches"`` only;
            fixed (``"sincos"``, MAE); ``"rotary"`` (DINOv3).
        pre_norm: whether tokens are normalised before the first block (CLIP).
        layer_scale: initial factor of each branch, None = no LayerScale.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first.
        drop_patches: share of the patches left out in training (FLIP, arXiv:2212.00794).
        eps: of the norms.
    """

    image: tuple[int, int] = (224, 224)
    patch: int = 16
    patch_bias: bool = True
    stem: Literal["patches", "convolutions"] = "patches"
    channels: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int | None = None
    mlp: Literal["gelu", "gelu tanh", "quick gelu", "swiglu"] = "gelu"
    bias: str = "qkvo"
    qk_norm: bool = False
    classes: int = 1000
    pool: Literal["cls", "mean", "normed mean", "map", "distilled"] = "cls"
    cls_token: bool = True
    distilled: bool = False
    registers: int = 0
    mask_token: bool = False
    positions: Literal["all", "no registers", "patches", "sincos", "rotary"] = "all"
    pre_norm: bool = False
    layer_scale: float | None = None
    drop_path: float = 0.0
    drop_patches: float = 0.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.pool in ("cls", "distilled") and not self.cls_token:
            raise ValueError(f"pool {self.pool!r} needs cls_token: true; without one choose 'mean' or 'map'")
        if self.pool == "distilled" and not self.distilled:
            raise ValueError("pool 'distilled' needs distilled: true")
        if self.stem == "convolutions" and self.mask_token:
            raise ValueError("convolutions show a masked patch to those around it: set mask_token to false")
        if not 0 <= self.drop_patches < 1:
            raise ValueError(f"drop_patches {self.drop_patches} must be in [0, 1)")
        patch_grid(self.image, (self.patch, self.patch))

    @property
    def prefix(self) -> int:
        """How many tokens stand before those of the patches."""
        return int(self.cls_token) + int(self.distilled) + self.registers

    @property
    def placed(self) -> int:
        """How many of the tokens before the patches have rows in the table of positions."""
        return {"all": self.prefix, "patches": 0, "rotary": 0}.get(self.positions, self.prefix - self.registers)

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along (height, width)."""
        return patch_grid(self.image, (self.patch, self.patch))


class ViT(nn.Module):
    """An image encoder, with a linear head if there are classes.

    Args:
        config: its shape.
        recompute: activation checkpointing: less memory in training for a third more time.
    """

    def __init__(self, config: ViTConfig = ViTConfig(), *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        dim, eps = config.dim, config.eps
        self.patch = _stem(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if config.cls_token else None
        self.dist_token = nn.Parameter(torch.empty(1, 1, dim)) if config.distilled else None
        self.registers = nn.Parameter(torch.empty(1, config.registers, dim)) if config.registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, dim)) if config.mask_token else None
        self.positions = _positions(config)
        self.pre_norm = LayerNorm(dim, eps=eps) if config.pre_norm else nn.Identity()
        blocks = [_block(config, number) for number in range(config.depth)]
        self.blocks = Stack(blocks, run=recomputed if recompute else direct)
        # a mean may be normalised after pooling, by the pool itself
        self.norm = nn.Identity() if config.pool == "mean" else LayerNorm(dim, eps=eps)
        self.pool = _pool(config)
        self.head = _head(config)
        trunc_normal(self)
        for token in (self.cls_token, self.dist_token, self.registers):
            if token is not None:
                nn.init.normal_(token, std=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes), or pooled features (B, dim) without a head, of images (B, C, H, W)."""
        return self.head(self.pool(self.features(images).x))

    def features(
        self, images: Tensor, want: Any = None, *, keep: Tensor | None = None, masked: Tensor | None = None
    ) -> Out:
        """Return the normalised tokens (B, prefix + patches, dim) of images (B, C, H, W), and what was wanted.

        Images may have another size than the configured one: positions are then resampled (bicubic, antialiased).

        Args:
            images: whose sides are multiples of the patch.
            want: what to capture, e.g. ``{11: {"attn": True, "hidden": True}}``.
            keep: (B, K) numbers of the patches that are looked at; the others are not even embedded, but a
                stem of convolutions sees them.
            masked: (B, patches) bool, True for the patches that are replaced by the mask token.

        Raises:
            ValueError: if a patch does not divide the images, or patches are masked without a mask token.
        """
        x, coords = self.embed(images, keep=keep, masked=masked)
        x, notes = self.blocks(x, Ctx(Tokens(coords=coords), want=want))
        return Out(self.norm(x), notes)

    def packed(self, groups: Sequence[Tensor], masked: Sequence[Tensor | None] | None = None) -> list[Tensor]:
        """Return the normalised tokens of groups of images, each group of its own size, in one pass of the blocks.

        Every image is a segment of one packed row (NaViT, arXiv:2307.06304): no padding, and no work between images.

        Args:
            groups: images (B_i, C, H_i, W_i).
            masked: for each group the patches to be masked, or None.

        Returns:
            For each group the tokens (B_i, prefix + patches_i, dim).
        """
        masks = [None] * len(groups) if masked is None else masked
        parts = [self.embed(images, masked=mask) for images, mask in zip(groups, masks, strict=True)]
        sizes = [tuple(x.shape[:2]) for x, _ in parts]
        tokens = packed_tokens([length for count, length in sizes for _ in range(count)], groups[0].device)
        if parts[0][1] is not None:
            # (1 or B, L, axes) of each group -> (1, B_i * L_i summed over the groups, axes)
            places = [c.expand(len(x), -1, -1).flatten(0, 1) for x, c in parts if c is not None]
            tokens = tokens._replace(coords=torch.cat(places)[None])
        row = torch.cat([x.flatten(0, 1) for x, _ in parts])[None]  # (B, L, D) of each group -> (1, sum B * L, D)
        x = self.norm(self.blocks(row, Ctx(tokens)).x)[0]
        found = x.split([count * length for count, length in sizes])
        return [part.unflatten(0, size) for part, size in zip(found, sizes, strict=True)]

    def dense(self, images: Tensor) -> Tensor:
        """Return the feature map (B, dim, H / patch, W / patch) of the normalised patches of images (B, C, H, W)."""
        x = self.features(images).x[:, self.config.prefix :]
        return x.transpose(1, 2).unflatten(2, self.patch.grid(images))  # (B, h*w, D) -> (B, D, h, w)

    def embed(
        self, images: Tensor, *, keep: Tensor | None = None, masked: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the tokens (B, prefix + patches, dim) that enter the blocks, and their coordinates if they are rotary.

        Raises:
            ValueError: as :meth:`features`.
        """
        grid = self.patch.grid(images)
        if keep is None and self.training and self.config.drop_patches > 0:
            keep = _some(len(images), grid, self.config.drop_patches, images.device)
        x = self.patch(images, keep)
        if masked is not None:
            if self.mask_token is None:
                raise ValueError("patches can't be masked without a mask token: set mask_token: true in the config")
            hidden = masked if keep is None else masked.gather(1, keep)
            x = torch.where(hidden[..., None], self.mask_token.to(x.dtype), x)
        tokens = [
            t.expand(x.shape[0], -1, -1) for t in (self.cls_token, self.dist_token, self.registers) if t is not None
        ]
        if self.positions is not None:
            front, patches = self._table(grid)
            x = x + (patches if keep is None else patches[keep])
            if tokens:
                x = torch.cat([*_add(tokens, front), x], 1)
            return self.pre_norm(x), None
        x = torch.cat([*tokens, x], 1)
        return self.pre_norm(x), _places(grid, self.config.prefix, keep, x.device)

    def _table(self, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The positions of the tokens before the patches, and those of the patches of a grid."""
        assert self.positions is not None
        table, placed = self.positions.table, self.config.placed
        return table[:placed], resampled(table[placed:], self.config.grid, grid)


def _add(tokens: list[Tensor], rows: Tensor) -> list[Tensor]:
    """Add the first rows of positions to the tokens (B, n, D) in order; those left over stand nowhere."""
    placed = []
    for token in tokens:
        some, rows = rows[: token.shape[1]], rows[token.shape[1] :]
        placed.append(token + some if len(some) else token)
    return placed


def _places(grid: tuple[int, ...], prefix: int, keep: Tensor | None, device: torch.device) -> Tensor:
    """(row, column, height, width) of every token, (1 or B, prefix + patches, 4); those of the prefix are nowhere."""
    cells = grid_coords(grid, device)  # (1, N, 2)
    if keep is not None:
        cells = cells.expand(len(keep), -1, -1).gather(1, keep[..., None].expand(-1, -1, 2))
    nowhere = cells.new_full((cells.shape[0], prefix, 2), -1)
    cells = torch.cat([nowhere, cells], 1)
    size = torch.tensor(grid, device=device).expand_as(cells)
    return torch.cat([cells, size], -1)


def _some(count: int, grid: tuple[int, ...], rate: float, device: torch.device) -> Tensor:
    """Numbers of the patches that stay, in order: (count, kept)."""
    patches = grid[0] * grid[1]
    kept = max(1, round(patches * (1 - rate)))
    return torch.rand(count, patches, device=device).argsort(1)[:, :kept].sort(1).values


def _stem(config: ViTConfig) -> PatchEmbed | ConvStem:
    if config.stem == "convolutions":
        return ConvStem(config.channels, config.dim, config.patch)
    return PatchEmbed(config.channels, config.dim, (config.patch, config.patch), bias=config.patch_bias)


def _block(config: ViTConfig, number: int) -> Block:
    rate = config.drop_path * number / max(config.depth - 1, 1)
    dim = config.dim

    def residual(fn: nn.Module) -> Residual:
        norm = LayerNorm(dim, eps=config.eps)
        post = None if config.layer_scale is None else LayerScale(dim, config.layer_scale)
        return Stochastic(norm, fn, post, rate) if rate > 0 else Residual(norm, fn, post)

    attend = attention(
        dim,
        config.heads,
        bias=config.bias,
        norm=(lambda width: LayerNorm(width, eps=config.eps)) if config.qk_norm else None,
        turn=GridRope(dim // config.heads) if config.positions == "rotary" else None,
    )
    return Block(attn=residual(attend), mlp=residual(_mlp(config)))


_ACTS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"),
    "quick gelu": QuickGELU,
    "swiglu": nn.GELU,  # of the attention pool, which is never gated
}


def _mlp(config: ViTConfig) -> nn.Module:
    if config.mlp == "swiglu":
        return SwiGLU(config.dim, 4 * config.dim if config.hidden is None else config.hidden, bias=True)
    return Mlp(config.dim, config.hidden, act=_ACTS[config.mlp]())


def _positions(config: ViTConfig) -> LearnedPositions | FixedPositions | None:
    if config.positions == "rotary":
        return None
    patches = config.grid[0] * config.grid[1]
    if config.positions == "sincos":
        table = sinusoids_2d(config.grid[0], config.grid[1], config.dim)
        return FixedPositions(torch.cat([torch.zeros(config.placed, config.dim), table.to(torch.get_default_device())]))
    return LearnedPositions(config.placed + patches, config.dim)


def _pool(config: ViTConfig) -> nn.Module:
    if config.pool == "cls":
        return ClassPool()
    if config.pool == "distilled":
        return TwoTokens()
    if config.pool == "mean":
        return MeanPool(config.prefix, LayerNorm(config.dim, eps=config.eps))
    if config.pool == "normed mean":
        return MeanPool(config.prefix)
    return AttentionPool(config.dim, config.heads, config.hidden, act=_ACTS[config.mlp](), eps=config.eps)


def _head(config: ViTConfig) -> nn.Module:
    if not config.classes:
        return nn.Identity()
    if config.pool == "distilled":
        return TwoHeads(config.dim, config.classes)
    return nn.Linear(config.dim, config.classes)
