"""The public sizes of DiT and MMDiT, by their authors' names."""

from dataclasses import replace
from typing import Any

from core.errors import InputError

from .dit import DiT, DiTConfig
from .mmdit import MMDiTConfig

__all__ = ["MMDITS", "PRESETS", "SIZES", "dit", "dit_config"]

SIZES = {
    "S": DiTConfig(out_channels=8),
    "B": DiTConfig(dim=768, heads=12, out_channels=8),
    "L": DiTConfig(dim=1024, depth=24, heads=16, out_channels=8),
    "XL": DiTConfig(dim=1152, depth=28, heads=16, out_channels=8),
}
"""Of facebookresearch/DiT, for latents of 32 x 32 (pictures of 256 x 256): noise, and its variance."""


def _of_both() -> dict[str, DiTConfig]:
    """DiT, and SiT, whose last layer computes four channels that nobody looks at."""
    found = {}
    for size, base in SIZES.items():
        for patch in (2, 4, 8):
            found[f"DiT-{size}/{patch}"] = replace(base, patch=patch)
            found[f"SiT-{size}/{patch}"] = replace(base, patch=patch, out_channels=None, spare=4)
    return found


PRESETS = _of_both()

MMDITS = {
    "SD3-medium": MMDiTConfig(),
    "SD3.5-medium": MMDiTConfig(most=384, dual=tuple(range(13)), qk_norm=True),
    "SD3.5-large": MMDiTConfig(depth=38, heads=38, qk_norm=True),
}
"""Of Stability AI (arXiv:2403.03206)."""


def dit_config(name: str, **changes: Any) -> DiTConfig:
    """Return the preset ``name`` with some of its fields changed.

    Raises:
        InputError: if there is no such preset, or no such field.
    """
    if name not in PRESETS:
        raise InputError(f"no DiT preset {name!r}: choose one of {', '.join(PRESETS)}")
    unknown = sorted(set(changes) - set(DiTConfig.__dataclass_fields__))
    if unknown:
        raise InputError(f"a DiT has no {', '.join(unknown)}: choose from {', '.join(DiTConfig.__dataclass_fields__)}")
    return replace(PRESETS[name], **changes)


def dit(name: str, **changes: Any) -> DiT:
    """Build the preset ``name`` with random weights, with some fields of :class:`DiTConfig` changed.

    Raises:
        InputError: if there is no such preset, or no such field.
    """
    return DiT(dit_config(name, **changes))
