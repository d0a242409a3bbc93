"""The public sizes of Swin, by timm's names."""

from dataclasses import replace
from typing import Any

from core.errors import InputError
from core.nn import direct
from core.nn.block import Run

from .swin import Swin, SwinConfig

__all__ = ["SWIN_PRESETS", "swin", "swin_config"]

_TINY = SwinConfig()
_SMALL = replace(_TINY, depths=(2, 2, 18, 2))
_BASE = replace(_SMALL, dim=128, heads=(4, 8, 16, 32))
_LARGE = replace(_SMALL, dim=192, heads=(6, 12, 24, 48))


def _sized(config: SwinConfig, image: int, window: int) -> SwinConfig:
    return replace(config, image=(image, image), windows=(window,) * 4)


def _v2(config: SwinConfig, image: int, window: int, trained: tuple[int, ...] = ()) -> SwinConfig:
    return replace(_sized(config, image, window), version=2, trained=trained)


_TRAINED = (12, 12, 12, 6)  # 192 pixels leave the last stage a grid of 6

SWIN_PRESETS: dict[str, SwinConfig] = {
    "swin_tiny_patch4_window7_224": _TINY,
    "swin_small_patch4_window7_224": _SMALL,
    "swin_base_patch4_window7_224": _BASE,
    "swin_base_patch4_window12_384": _sized(_BASE, 384, 12),
    "swin_large_patch4_window7_224": _LARGE,
    "swin_large_patch4_window12_384": _sized(_LARGE, 384, 12),
    "swin_s3_tiny_224": replace(_TINY, windows=(7, 7, 14, 7)),
    "swin_s3_small_224": replace(_SMALL, windows=(14, 14, 14, 7)),
    "swin_s3_base_224": replace(_TINY, depths=(2, 2, 30, 2), windows=(7, 7, 14, 7)),
    "swinv2_tiny_window8_256": _v2(_TINY, 256, 8),
    "swinv2_tiny_window16_256": _v2(_TINY, 256, 16),
    "swinv2_small_window8_256": _v2(_SMALL, 256, 8),
    "swinv2_small_window16_256": _v2(_SMALL, 256, 16),
    "swinv2_base_window8_256": _v2(_BASE, 256, 8),
    "swinv2_base_window16_256": _v2(_BASE, 256, 16),
    "swinv2_base_window12_192": replace(_v2(_BASE, 192, 12), classes=21841),
    "swinv2_base_window12to16_192to256": _v2(_BASE, 256, 16, _TRAINED),
    "swinv2_base_window12to24_192to384": _v2(_BASE, 384, 24, _TRAINED),
    "swinv2_large_window12_192": replace(_v2(_LARGE, 192, 12), classes=21841),
    "swinv2_large_window12to16_192to256": _v2(_LARGE, 256, 16, _TRAINED),
    "swinv2_large_window12to24_192to384": _v2(_LARGE, 384, 24, _TRAINED),
}


def swin_config(name: str, **changes: Any) -> SwinConfig:
    """Return the preset ``name`` with some of its fields changed.

    Raises:
        InputError: if there is no such preset, or no such field.
    """
    if name not in SWIN_PRESETS:
        raise InputError(f"no Swin preset {name!r}: choose one of {', '.join(SWIN_PRESETS)}")
    fields = SwinConfig.__dataclass_fields__
    unknown = sorted(set(changes) - set(fields))
    if unknown:
        raise InputError(f"a Swin has no {', '.join(unknown)}: choose from {', '.join(fields)}")
    return replace(SWIN_PRESETS[name], **changes)


def swin(name: str, *, run: Run = direct, **changes: Any) -> Swin:
    """Build the preset ``name`` with random weights, with some fields of :class:`SwinConfig` changed.

    Raises:
        InputError: if there is no such preset, or no such field.
    """
    return Swin(swin_config(name, **changes), run=run)
