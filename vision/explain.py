"""What an image encoder looks at, and what its patches have in common: attention, rollout, principal components."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import InputError

from .vit import ViT

__all__ = ["attention", "attention_maps", "patch_colours", "principal_components", "rollout", "rollout_map"]


@torch.no_grad()
def attention(vit: ViT, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
    """Return the attention weights (B, heads, L, L) of some blocks, computed beside the fused kernel.

    Args:
        vit: the encoder.
        images: (B, C, H, W), whose sides are multiples of the patch.
        blocks: their numbers; negative ones count from the end.

    Raises:
        InputError: if there is no such block.
    """
    depth = vit.config.depth
    if any(not -depth <= block < depth for block in blocks):
        raise InputError(f"blocks {list(blocks)}: this model has blocks 0..{depth - 1} (or -{depth}..-1)")
    numbers = [block % depth for block in blocks]
    notes = vit.features(images, {number: {"attn": True} for number in numbers}).notes
    return [notes[number]["attn"]["weights"] for number in numbers]


def attention_maps(vit: ViT, images: Tensor, block: int = -1) -> Tensor:
    """Return how much each patch is looked at by each head of a block, (B, heads, h, w).

    By the class token; in a model without one, on average by all patches.
    """
    (weights,) = attention(vit, images, [block])
    return _on_grid(vit, images, _looks(vit, weights))


def rollout(weights: Sequence[Tensor]) -> Tensor:
    """Return the attention rollout (B, L, L): what reaches each token of the last block from each of the input.

    Weights are averaged over the heads, and half of each block is its shortcut: the product of (A + I) / 2, the first
    block on the right (Abnar and Zuidema 2020, arXiv:2005.00928, section 3).

    Args:
        weights: (B, heads, L, L) of every block, the first one first.

    Raises:
        ValueError: if there are none.
    """
    if not weights:
        raise ValueError("a rollout needs the weights of every block, got none")
    identity = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype, device=weights[0].device)
    flow = identity.expand(len(weights[0]), -1, -1)
    for block in weights:
        flow = (block.mean(1) + identity) / 2 @ flow
    return flow


def rollout_map(vit: ViT, images: Tensor) -> Tensor:
    """Return what reaches the class token (or on average the patches) from each patch, (B, h, w)."""
    flow = rollout(attention(vit, images, range(vit.config.depth)))
    return _on_grid(vit, images, _looks(vit, flow[:, None]))[:, 0]


def principal_components(features: Tensor, count: int = 3) -> Tensor:
    """Return the first principal components (N, count) of features (N, D), for all rows together.

    Signs are those in which the largest loading is positive; where there are fewer components, the rest is zero.
    """
    x = features.double()
    x = x - x.mean(0)
    axes = torch.linalg.svd(x, full_matrices=False).Vh[:count]  # (count, D)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    found = x @ (axes * largest.sign()).T
    missing = count - found.shape[1]
    return torch.cat([found, found.new_zeros(len(found), missing)], 1).to(features.dtype)


@torch.no_grad()
def patch_colours(vit: ViT, images: Tensor) -> Tensor:
    """Return the first three principal components of the patches of all images, (B, 3, h, w) in 0..1, as colours.

    The span between the 1st and 99th percentile of a component becomes 0..1 (the pictures of DINOv2,
    arXiv:2304.07193, show components likewise).
    """
    maps = vit.dense(images).float()
    count, _, height, width = maps.shape
    found = principal_components(maps.permute(0, 2, 3, 1).flatten(0, 2))  # (B, D, h, w) -> (B * h * w, 3)
    low, high = (found.quantile(share, dim=0) for share in (0.01, 0.99))
    found = ((found - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return found.unflatten(0, (count, height, width)).permute(0, 3, 1, 2)


def _looks(vit: ViT, weights: Tensor) -> Tensor:
    """From weights (B, heads, L, L) to what the class token, or the average patch, gives the patches (B, heads, N)."""
    prefix = vit.config.prefix
    seen = weights[..., prefix:]
    return seen[:, :, 0] if vit.config.cls_token else seen[:, :, prefix:].mean(2)


def _on_grid(vit: ViT, images: Tensor, values: Tensor) -> Tensor:
    return values.unflatten(-1, vit.patch.grid(images))  # (B, heads, h * w) -> (B, heads, h, w)
