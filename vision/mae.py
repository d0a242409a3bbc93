"""Masked autoencoder (He et al. 2021, arXiv:2111.06377): a ViT sees few patches, a small decoder guesses the others.

Nothing is computed for a patch that isn't needed: hidden patches are never embedded, and pixels are predicted for
hidden patches only, so the decoder's last block asks for these alone. The decoder takes visible and hidden tokens one
after the other, not in the order of the picture: its positions say where each belongs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.nn import (
    Block,
    Ctx,
    FixedPositions,
    LayerNorm,
    Memory,
    Mlp,
    Residual,
    Stack,
    attention,
    cross_attention,
    direct,
    patchify,
    recomputed,
    sinusoids_2d,
    unpatchify,
)
from core.nn.init import xavier_uniform

from .losses.mae import patch_stats
from .vit import ViT, ViTConfig

__all__ = ["MAE_ENCODER", "MAEConfig", "MAEOut", "MaskedAutoencoder", "Masking", "masking"]


MAE_ENCODER = ViTConfig(classes=0, positions="sincos")
"""The encoder of the paper's base size."""


@dataclass(frozen=True)
class MAEConfig:
    """The shape of a masked autoencoder.

    Attributes:
        encoder: a ViT with a class token and without classes.
        dim, depth, heads, hidden: width, blocks, heads and feed-forward width (default 4 * dim) of the decoder.
        mask: share of the patches that are hidden.
        normalise: whether what is predicted are pixels normalised within each patch.
    """

    encoder: ViTConfig = MAE_ENCODER
    dim: int = 512
    depth: int = 8
    heads: int = 16
    hidden: int | None = None
    mask: float = 0.75
    normalise: bool = True

    def __post_init__(self) -> None:
        if self.encoder.classes or self.encoder.pool != "cls" or self.encoder.positions == "rotary":
            raise ValueError("the encoder of an MAE needs classes: 0, pool: cls, and positions in a table: sincos")
        if self.encoder.stem != "patches":
            raise ValueError("the encoder of an MAE needs stem: patches; convolutions would show it what is hidden")
        patches = self.encoder.grid[0] * self.encoder.grid[1]
        if not 0 < self.visible < patches:
            raise ValueError(f"mask {self.mask} must leave at least one of {patches} patches to see and one to guess")

    @property
    def visible(self) -> int:
        """How many patches the encoder sees."""
        return int(self.encoder.grid[0] * self.encoder.grid[1] * (1 - self.mask))


class Masking(NamedTuple):
    """Numbers of the patches that are seen, (B, K) int64, and of those that are hidden, (B, M)."""

    keep: Tensor
    masked: Tensor


class MAEOut(NamedTuple):
    """Predicted values (B, M, patch * patch * C), channels last, of the hidden patches, and which these are (B, M)."""

    predicted: Tensor
    masked: Tensor


def masking(noise: Tensor, visible: int) -> Masking:
    """Hide all but the ``visible`` patches with the least noise (B, patches), each image on its own."""
    order = noise.argsort(1)
    return Masking(order[:, :visible], order[:, visible:])


class MaskedAutoencoder(nn.Module):
    """An encoder, and what reconstructs pictures from what it saw.

    Args:
        config: its shape.
        recompute: activation checkpointing in encoder and decoder.
    """

    def __init__(self, config: MAEConfig = MAEConfig(), *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        eps = config.encoder.eps
        self.encoder = ViT(config.encoder, recompute=recompute)
        self.embed = nn.Linear(config.encoder.dim, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        table = sinusoids_2d(config.encoder.grid[0], config.encoder.grid[1], config.dim)
        front = torch.zeros(config.encoder.prefix, config.dim)
        self.positions = FixedPositions(torch.cat([front, table.to(front.device)]))
        run = recomputed if recompute else direct
        blocks = [_block(config) for _ in range(config.depth - 1)]
        self.decoder = Stack([*blocks, _last_block(config)] if config.depth else [], run=run)
        self.norm = LayerNorm(config.dim, eps=eps)
        self.head = nn.Linear(config.dim, config.encoder.channels * config.encoder.patch**2)
        xavier_uniform(self)
        for token in (self.encoder.cls_token, self.mask_token):
            assert token is not None
            nn.init.normal_(token, std=0.02)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> MAEOut:
        """Predict the hidden patches of images (B, C, H, W).

        Args:
            images: of the configured size.
            noise: (B, patches); the patches with the least are seen. By default random (PyTorch's generator).

        Raises:
            ValueError: if the images or the noise have another size than the configured one.
        """
        hidden = self.masking(images, noise)
        x = self.decode(self.encoder.features(images, keep=hidden.keep).x, hidden)
        return MAEOut(self.head(x), hidden.masked)

    def masking(self, images: Tensor, noise: Tensor | None = None) -> Masking:
        """Choose which patches of images (B, C, H, W) to hide; see :meth:`forward`."""
        if tuple(images.shape[2:]) != tuple(self.config.encoder.image):
            raise ValueError(f"images of {tuple(images.shape[2:])} pixels, but this takes {self.config.encoder.image}")
        size = len(images), self.config.encoder.grid[0] * self.config.encoder.grid[1]
        if noise is None:
            noise = torch.rand(size, device=images.device)
        if tuple(noise.shape) != size:
            raise ValueError(f"noise of {tuple(noise.shape)}, expected a number for each patch: {size}")
        return masking(noise, self.config.visible)

    def decode(self, latent: Tensor, hidden: Masking) -> Tensor:
        """Return the decoder's normalised tokens (B, M, d) of the hidden patches.

        Args:
            latent: (B, prefix + K, D), the encoder's tokens.
            hidden: which patches these are.
        """
        x = self.embed(latent)
        count, prefix = len(x), self.config.encoder.prefix
        guess = self.mask_token.to(x.dtype).expand(count, hidden.masked.shape[1], -1)
        front = torch.arange(prefix, device=x.device).expand(count, -1)
        places = torch.cat([front, hidden.keep + prefix, hidden.masked + prefix], 1)  # (B, prefix + K + M)
        x = self.positions(torch.cat([x, guess], 1), places)
        x = self.decoder(x).x[:, -hidden.masked.shape[1] :]  # without any block all tokens are still there
        return self.norm(x)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return images (B, C, H, W) whose hidden patches are what the model makes of them.

        Normalised predictions are scaled by mean and deviation of the true patch, as the pictures of the paper are.

        Args:
            images, noise: as in :meth:`forward`.
        """
        predicted, masked = self(images, noise)
        patches, there = self._patches(images, masked)
        values = predicted.to(patches.dtype)
        if self.config.normalise:
            mean, std = patch_stats(patches.gather(1, there))
            values = values * std + mean
        return self._picture(patches.scatter(1, there, values))

    def hide(self, images: Tensor, noise: Tensor | None = None, value: float = 0.0) -> Tensor:
        """Return images (B, C, H, W) as the encoder sees them, ``value`` in every hidden patch."""
        patches, there = self._patches(images, self.masking(images, noise).masked)
        return self._picture(patches.scatter(1, there, value))

    def _patches(self, images: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """All patches (B, N, P), and an index (B, M, P) of the hidden ones."""
        patches = patchify(images, self.encoder.patch.patch, "channels last")
        return patches, masked[..., None].expand(-1, -1, patches.shape[2])

    def _picture(self, patches: Tensor) -> Tensor:
        return unpatchify(patches, self.encoder.patch.patch, self.config.encoder.grid, "channels last")


class _Tail(Residual):
    """x + fn(norm(x), ctx) for the last ``count`` tokens, which attend over all of them.

    Args:
        norm: of all tokens.
        fn: attention over ``ctx.memory``.
        count: how many tokens go on.
    """

    def __init__(self, norm: nn.Module, fn: nn.Module, count: int) -> None:
        super().__init__(norm, fn)
        self.count = count

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map (B, L, D) to (B, count, D)."""
        y = self.norm(x)
        found: Tensor = self.fn(y[:, -self.count :], ctx._replace(memory=Memory(y)))
        return x[:, -self.count :] + found


def _block(config: MAEConfig) -> Block:
    eps = config.encoder.eps
    return Block(
        attn=Residual(LayerNorm(config.dim, eps=eps), attention(config.dim, config.heads)),
        mlp=Residual(LayerNorm(config.dim, eps=eps), Mlp(config.dim, config.hidden)),
    )


def _last_block(config: MAEConfig) -> Block:
    eps = config.encoder.eps
    count = config.encoder.grid[0] * config.encoder.grid[1] - config.visible
    return Block(
        attn=_Tail(LayerNorm(config.dim, eps=eps), cross_attention(config.dim, config.heads), count),
        mlp=Residual(LayerNorm(config.dim, eps=eps), Mlp(config.dim, config.hidden)),
    )
