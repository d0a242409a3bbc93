"""The public sizes of ViT, by timm's names."""

from dataclasses import replace
from typing import Any

from core.errors import InputError

from .vit import ViT, ViTConfig

__all__ = ["PRESETS", "vit", "vit_config"]

_TINY = ViTConfig(dim=192, heads=3)
_SMALL = ViTConfig(dim=384, heads=6)
_BASE = ViTConfig()
_LARGE = ViTConfig(dim=1024, depth=24, heads=16)

PRESETS: dict[str, ViTConfig] = {
    "vit_tiny_patch16_224": _TINY,
    "vit_small_patch16_224": _SMALL,
    "vit_small_patch32_224": replace(_SMALL, patch=32),
    "vit_base_patch16_224": _BASE,
    "vit_base_patch32_224": replace(_BASE, patch=32),
    "vit_base_patch8_224": replace(_BASE, patch=8),
    "vit_base_patch16_384": replace(_BASE, image=(384, 384)),
    "vit_large_patch16_224": _LARGE,
    "vit_large_patch32_384": replace(_LARGE, patch=32, image=(384, 384)),
    "vit_huge_patch14_224": ViTConfig(patch=14, dim=1280, depth=32, heads=16),
}


def vit_config(name: str, **changes: Any) -> ViTConfig:
    """Return the preset ``name`` with some of its fields changed.

    Raises:
        InputError: if there is no such preset, or no such field.
    """
    if name not in PRESETS:
        raise InputError(f"no ViT preset {name!r}: choose one of {', '.join(PRESETS)}")
    unknown = sorted(set(changes) - set(ViTConfig.__dataclass_fields__))
    if unknown:
        raise InputError(f"a ViT has no {', '.join(unknown)}: choose from {', '.join(ViTConfig.__dataclass_fields__)}")
    return replace(PRESETS[name], **changes)


def vit(name: str, **changes: Any) -> ViT:
    """Build the preset ``name`` with random weights, with some fields of :class:`ViTConfig` changed.

    Raises:
        InputError: if there is no such preset, or no such field.
    """
    return ViT(vit_config(name, **changes))
