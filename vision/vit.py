"""Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.nn import (
    Block,
    Ctx,
    DropPath,
    LayerNorm,
    LayerScale,
    LearnedPositions,
    Mlp,
    Out,
    PatchEmbed,
    Residual,
    Stack,
    attention,
    patch_grid,
    trunc_normal,
)

from .pool import AttentionPool, ClassPool, MeanPool

__all__ = ["ViT", "ViTConfig"]


@dataclass(frozen=True)
class ViTConfig:
    """The shape of a ViT.

    Attributes:
        image: (height, width) in pixels.
        patch: side of a square patch in pixels.
        channels: of the image.
        dim, depth, heads: width, number of blocks, number of heads.
        hidden: width of the feed-forward branch, default 4 * dim.
        classes: outputs of the head; 0 = no head, the model returns the pooled features.
        pool: how tokens become one vector: the class token, the mean of the patches, or attention (MAP).
        cls_token: whether there is a class token.
        registers: number of register tokens (arXiv:2309.16588).
        positions: whether class and register tokens have positions too (``"all"``) or only ``"patches"``.
        layer_scale: initial factor of each branch, None = no LayerScale.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first.
        eps: of the norms.
    """

    image: tuple[int, int] = (224, 224)
    patch: int = 16
    channels: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int | None = None
    classes: int = 1000
    pool: Literal["cls", "mean", "map"] = "cls"
    cls_token: bool = True
    registers: int = 0
    positions: Literal["all", "patches"] = "all"
    layer_scale: float | None = None
    drop_path: float = 0.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.pool == "cls" and not self.cls_token:
            raise ValueError("pool 'cls' needs cls_token: true; without one choose 'mean' or 'map'")
        patch_grid(self.image, (self.patch, self.patch))

    @property
    def prefix(self) -> int:
        """How many tokens stand before those of the patches."""
        return int(self.cls_token) + self.registers

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along (height, width)."""
        return patch_grid(self.image, (self.patch, self.patch))


class ViT(nn.Module):
    """An image encoder, with a linear head if there are classes."""

    def __init__(self, config: ViTConfig = ViTConfig()) -> None:
        super().__init__()
        self.config = config
        dim, eps = config.dim, config.eps
        patches = config.grid[0] * config.grid[1]
        self.patch = PatchEmbed(config.channels, dim, (config.patch, config.patch))
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if config.cls_token else None
        self.registers = nn.Parameter(torch.empty(1, config.registers, dim)) if config.registers else None
        self.positions = LearnedPositions(patches + (config.prefix if config.positions == "all" else 0), dim)
        self.blocks = Stack(_block(config, number) for number in range(config.depth))
        # a mean is normalised after pooling, by the pool itself
        self.norm = nn.Identity() if config.pool == "mean" else LayerNorm(dim, eps=eps)
        self.pool = _pool(config)
        self.head = nn.Linear(dim, config.classes) if config.classes else nn.Identity()
        trunc_normal(self)
        for token in (self.cls_token, self.registers):
            if token is not None:
                nn.init.normal_(token, std=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes), or pooled features (B, dim) without a head, of images (B, C, H, W)."""
        return self.head(self.pool(self.features(images).x))

    def features(self, images: Tensor, want: Any = None) -> Out:
        """Return the normalised tokens (B, prefix + patches, dim) of images (B, C, H, W), and what was wanted.

        Args:
            images: of the configured size.
            want: what to capture, e.g. ``{11: {"attn": True, "hidden": True}}``.

        Raises:
            ValueError: if the images have another size than the model.
        """
        x, notes = self.blocks(self.embed(images), Ctx(want=want))
        return Out(self.norm(x), notes)

    def embed(self, images: Tensor) -> Tensor:
        """Return the tokens (B, prefix + patches, dim) that enter the blocks.

        Raises:
            ValueError: if the images have another size than the model.
        """
        if tuple(images.shape[2:]) != tuple(self.config.image):
            raise ValueError(f"images of {tuple(images.shape[2:])} pixels, but this model takes {self.config.image}")
        x = self.patch(images)
        prefix = [t.expand(x.shape[0], -1, -1) for t in (self.cls_token, self.registers) if t is not None]
        if self.config.positions == "patches":
            return torch.cat([*prefix, self.positions(x)], 1)
        return self.positions(torch.cat([*prefix, x], 1))


def _block(config: ViTConfig, number: int) -> Block:
    rate = config.drop_path * number / max(config.depth - 1, 1)

    def residual(fn: nn.Module) -> Residual:
        post: list[nn.Module] = []
        if config.layer_scale is not None:
            post.append(LayerScale(config.dim, config.layer_scale))
        if rate > 0:
            post.append(DropPath(rate))
        return Residual(LayerNorm(config.dim, eps=config.eps), fn, nn.Sequential(*post) if post else None)

    return Block(
        attn=residual(attention(config.dim, config.heads)),
        mlp=residual(Mlp(config.dim, config.hidden)),
    )


def _pool(config: ViTConfig) -> nn.Module:
    if config.pool == "cls":
        return ClassPool()
    if config.pool == "mean":
        return MeanPool(config.prefix, LayerNorm(config.dim, eps=config.eps))
    return AttentionPool(config.dim, config.heads, config.hidden, eps=config.eps)
