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
_HUGE = ViTConfig(patch=14, dim=1280, depth=32, heads=16)


def _vit() -> dict[str, ViTConfig]:
    return {
        "vit_tiny_patch16_224": _TINY,
        "vit_tiny_patch16_384": _at(_TINY, 384),
        "vit_small_patch16_224": _SMALL,
        "vit_small_patch16_384": _at(_SMALL, 384),
        "vit_small_patch32_224": replace(_SMALL, patch=32),
        "vit_base_patch16_224": _BASE,
        "vit_base_patch32_224": replace(_BASE, patch=32),
        "vit_base_patch8_224": replace(_BASE, patch=8),
        "vit_base_patch16_384": _at(_BASE, 384),
        "vit_large_patch16_224": _LARGE,
        "vit_large_patch16_384": _at(_LARGE, 384),
        "vit_large_patch32_384": _at(replace(_LARGE, patch=32), 384),
        "vit_huge_patch14_224": _HUGE,
    }


def _deit() -> dict[str, ViTConfig]:
    """DeiT (arXiv:2012.12877) and DeiT III (arXiv:2204.07118)."""
    found = {}
    for name, base in {"tiny": _TINY, "small": _SMALL, "base": _BASE}.items():
        found[f"deit_{name}_patch16_224"] = base
        found[f"deit_{name}_distilled_patch16_224"] = replace(base, distilled=True, pool="distilled")
    medium = ViTConfig(dim=512, heads=8)
    for name, base in {"small": _SMALL, "medium": medium, "base": _BASE, "large": _LARGE}.items():
        found[f"deit3_{name}_patch16_224"] = replace(base, positions="patches", layer_scale=1e-6)
    found["deit3_huge_patch14_224"] = replace(_HUGE, positions="patches", layer_scale=1e-6)
    return found


def _dinov2() -> dict[str, ViTConfig]:
    """DINOv2 (arXiv:2304.07193), with registers or without, for images of 518 pixels."""
    giant = ViTConfig(dim=1536, depth=40, heads=24, hidden=4096, mlp="swiglu")
    found = {}
    for name, base in {"small": _SMALL, "base": _BASE, "large": _LARGE, "giant": giant}.items():
        plain = _at(replace(base, patch=14, layer_scale=1e-5, classes=0), 518)
        found[f"vit_{name}_patch14_dinov2"] = plain
        found[f"vit_{name}_patch14_reg4_dinov2"] = replace(plain, registers=4, positions="patches")
    return found


def _dinov3() -> dict[str, ViTConfig]:
    """DINOv3 (arXiv:2508.10104); timm pools by the mean, the paper takes the class token (``pool="cls"``)."""
    huge = ViTConfig(dim=1280, depth=32, heads=20)
    sizes = {
        "small": _SMALL,
        "small_plus": replace(_SMALL, hidden=1536, mlp="swiglu"),
        "base": _BASE,
        "large": _LARGE,
        "huge_plus": replace(huge, hidden=5120, mlp="swiglu"),
        "7b": ViTConfig(dim=4096, depth=40, heads=32, hidden=8192, mlp="swiglu"),
    }
    found = {}
    for name, base in sizes.items():
        shared = replace(_at(base, 256), registers=4, positions="rotary", layer_scale=1e-5, eps=1e-5, classes=0)
        plain = replace(shared, pool="normed mean", bias="o")
        found[f"vit_{name}_patch16_dinov3"] = plain
        if name != "7b":
            found[f"vit_{name}_patch16_dinov3_qkvb"] = replace(plain, bias="qvo")
    return found


def _siglip() -> dict[str, ViTConfig]:
    """The image towers of SigLIP (arXiv:2303.15343) and SigLIP 2, with attention pooling or (``gap``) a mean."""
    so400m = ViTConfig(dim=1152, depth=27, heads=16, hidden=4304)
    giant = ViTConfig(dim=1536, depth=40, heads=16)
    large = replace(_LARGE, mlp="gelu tanh")
    tanh = replace(so400m, mlp="gelu tanh")
    sizes = {
        "base_patch16": (_BASE, (224, 256, 384, 512)),
        "base_patch32": (replace(_BASE, patch=32, mlp="gelu tanh"), (256,)),
        "large_patch16": (_LARGE, (256, 384)),
        "so400m_patch14": (replace(so400m, patch=14), (224, 378, 384)),
        "so400m_patch16": (tanh, (256, 384, 512)),
        "giantopt_patch16": (replace(giant, mlp="gelu tanh"), (256, 384)),
    }
    found = {}
    for name, (base, sides) in sizes.items():
        for side in sides:
            plain = replace(base, image=_sides(base, side), cls_token=False, pool="map", positions="patches")
            found[f"vit_{name}_siglip_{side}"] = plain
            found[f"vit_{name}_siglip_gap_{side}"] = replace(plain, pool="normed mean")
    at_512 = replace(large, image=(512, 512), cls_token=False, pool="map", positions="patches")
    found["vit_large_patch16_siglip_512"] = at_512
    found["vit_large_patch16_siglip_gap_512"] = replace(at_512, pool="normed mean")
    return found


def _clip() -> dict[str, ViTConfig]:
    """The image towers of CLIP (arXiv:2103.00020); those of OpenAI have the approximate GELU."""
    sizes = {
        "base_patch32": (replace(_BASE, patch=32), (224,)),
        "base_patch16": (_BASE, (224,)),
        "large_patch14": (replace(_LARGE, patch=14), (224, 336)),
        "huge_patch14": (_HUGE, (224,)),
    }
    found = {}
    for name, (base, sides) in sizes.items():
        for side in sides:
            plain = replace(_at(base, side), pre_norm=True, patch_bias=False, eps=1e-5)
            found[f"vit_{name}_clip_{side}"] = plain
            found[f"vit_{name}_clip_quickgelu_{side}"] = replace(plain, mlp="quick gelu")
    return found


def _at(config: ViTConfig, side: int) -> ViTConfig:
    return replace(config, image=(side, side))


def _sides(config: ViTConfig, side: int) -> tuple[int, int]:
    """The largest size that the patch divides: 384 is 378 for patches of 14."""
    whole = side - side % config.patch
    return whole, whole


PRESETS: dict[str, ViTConfig] = {**_vit(), **_deit(), **_dinov2(), **_dinov3(), **_siglip(), **_clip()}


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
