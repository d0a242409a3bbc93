"""The public sizes of CLIP, SigLIP and SigLIP 2, by open_clip's names."""

from dataclasses import replace
from typing import Any

from core.errors import InputError
from multimodal.text import TextConfig
from multimodal.two_towers import TwoTowers, TwoTowersConfig
from vision.presets import vit_config
from vision.vit import ViTConfig

__all__ = ["PRESETS", "two_towers"]


def _clip() -> dict[str, TwoTowersConfig]:
    """CLIP (arXiv:2103.00020) and OpenCLIP (arXiv:2212.07143); OpenAI's have the approximate GELU."""
    # image: patch, width, depth, heads, hidden; text: width, depth, heads
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, int, int]]] = {
        "S-32": ((32, 384, 12, 6, 1536), (384, 12, 6)),
        "S-16": ((16, 384, 12, 6, 1536), (384, 12, 6)),
        "M-32": ((32, 512, 12, 8, 2048), (512, 12, 8)),
        "M-16": ((16, 512, 12, 8, 2048), (512, 12, 8)),
        "B-32": ((32, 768, 12, 12, 3072), (512, 12, 8)),
        "B-16": ((16, 768, 12, 12, 3072), (512, 12, 8)),
        "L-16": ((16, 1024, 24, 16, 4096), (768, 12, 12)),
        "L-14": ((14, 1024, 24, 16, 4096), (768, 12, 12)),
        "H-16": ((16, 1280, 32, 16, 5120), (1024, 24, 16)),
        "H-14": ((14, 1280, 32, 16, 5120), (1024, 24, 16)),
        "g-14": ((14, 1408, 40, 16, 6144), (1024, 24, 16)),
        "bigG-14": ((14, 1664, 48, 16, 8192), (1280, 32, 20)),
    }
    sides = {"B-32": (256,), "L-16": (320,), "L-14": (280, 336), "H-14": (378,)}
    found = {}
    for name, ((patch, dim, depth, heads, hidden), (width, layers, count)) in shapes.items():
        tower = ViTConfig(
            patch=patch, patch_bias=False, dim=dim, depth=depth, heads=heads, hidden=hidden, classes=0, pre_norm=True,
            eps=1e-5,
        )  # fmt: skip
        text = TextConfig(dim=width, depth=layers, heads=count, embed=1280 if name == "bigG-14" else width)
        for side in (224, *sides.get(name, ())):
            plain = TwoTowersConfig(replace(tower, image=(side, side)), text)
            found[f"ViT-{name}" + ("" if side == 224 else f"-{side}")] = plain
    approximate = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-H-14-378", "ViT-bigG-14")
    return found | {f"{name}-quickgelu": with_quick_gelu(found[name]) for name in approximate}


def with_quick_gelu(config: TwoTowersConfig) -> TwoTowersConfig:
    """Return the shape with OpenAI's approximate GELU in both towers."""
    return replace(config, image=replace(config.image, mlp="quick gelu"), text=replace(config.text, mlp="quick gelu"))  # type: ignore[arg-type]


def _siglip() -> dict[str, TwoTowersConfig]:
    """SigLIP (arXiv:2303.15343) and SigLIP 2 (arXiv:2502.14786)."""
    base = TextConfig(vocab=32_000, context=64, dim=768, heads=12, causal=False, pool="last", pad=1, eps=1e-6)
    texts = {
        "base": replace(base, embed=768, embed_bias=True),
        "large": replace(base, embed=1024, embed_bias=True, dim=1024, depth=24, heads=16),
        "so400m": replace(base, embed=1152, embed_bias=True, dim=1152, depth=27, heads=16, hidden=4304),
    }
    texts["giantopt"] = replace(texts["so400m"], embed=1536)
    names = {"base": "B", "large": "L", "so400m": "SO400M", "giantopt": "gopt"}
    first = {("base", 16): (224, 256, 384, 512), ("large", 16): (256, 384), ("so400m", 14): (224, 378, 384)}
    second = {
        ("base", 32): (256,),
        ("base", 16): (224, 256, 384, 512),
        ("large", 16): (256, 384, 512),
        ("so400m", 14): (224, 378),
        ("so400m", 16): (256, 384, 512),
        ("giantopt", 16): (256, 384),
    }
    found = {}
    for version, shapes in ((1, first), (2, second)):
        for (size, patch), sides in shapes.items():
            for side in sides:
                text = texts[size] if version == 1 else replace(texts[size], vocab=256_000, pad=0, mlp="gelu tanh")
                if (version, size, side) == (1, "so400m", 224):
                    text = replace(text, context=16)
                tower = _tower(size, patch, side)
                name = f"ViT-{names[size]}-{patch}-SigLIP{'2' if version == 2 else ''}"
                found[name + ("" if side == 224 else f"-{side}")] = TwoTowersConfig(
                    tower, text, image_proj=False, logit_scale=10.0, logit_bias=-10.0
                )
    texts["so400m"] = replace(texts["so400m"], embed=None, embed_bias=False)
    for size in ("base", "so400m"):
        found[f"ViT-{names[size]}-16-SigLIP-i18n-256"] = TwoTowersConfig(
            _tower(size, 16, 256), replace(texts[size], vocab=250_000), image_proj=False, logit_scale=10.0,
            logit_bias=-10.0,
        )  # fmt: skip
    return found


def _tower(size: str, patch: int, side: int) -> ViTConfig:
    return vit_config(f"vit_{size}_patch{patch}_siglip_{side}", classes=0)


PRESETS: dict[str, TwoTowersConfig] = {**_clip(), **_siglip()}
"""The shapes that open_clip has weights for, by its names."""


def two_towers(name: str, **changes: Any) -> TwoTowers:
    """Build the preset ``name`` with random weights, with some fields of :class:`TwoTowersConfig` changed.

    Raises:
        InputError: if there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"no two-tower preset {name!r}: choose one of {', '.join(PRESETS)}")
    return TwoTowers(replace(PRESETS[name], **changes))
