"""From a name or a path to what can be called: the pipelines behind `sensorium.load`."""

from pathlib import Path
from typing import Any

from core.errors import InputError

__all__ = ["list_models", "load"]


def list_models(family: str | None = None) -> list[str]:
    """The names that are known, as ``family/name``; with `family` (whisper, vit) only its own.

    Raises `InputError` for a family that there is not.
    """
    from audio.checkpoints import CHECKPOINTS
    from vision.presets import PRESETS

    known = {"whisper": list(CHECKPOINTS), "vit": list(PRESETS)}
    if family is not None and family not in known:
        raise InputError(f"no family {family!r}: choose one of {', '.join(known)}")
    return [f"{name}/{model}" for name, models in known.items() if family in (None, name) for model in models]
