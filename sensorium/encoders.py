"""Image encoders by name, for the commands: where one is, and how its pictures are prepared."""

import difflib
from pathlib import Path
from typing import Any

from core.errors import InputError

__all__ = ["find_encoder", "load_any", "open_encoder"]


def find_encoder(source: str) -> Path:
    """The local file or folder of an encoder, downloaded if need be.

    `source` is a path, a model of the Hub (``owner/name``), or a name of timm's such as ``vit_small_patch14_dinov2``.

    Raises `InputError` when there is none, with the nearest names.
    """
    from core.weights import fetch

    if "/" in source or Path(source).expanduser().exists():
        return fetch(source)
    from vision.presets import PRESETS

    name = source.partition(".")[0]
    if name in PRESETS:
        return fetch(f"timm/{source}")
    near = difflib.get_close_matches(name, PRESETS, n=3) or ["vit_small_patch16_224"]
    raise InputError(
        f"unknown model {source!r}: give a path, owner/name of the Hub, or a name of timm's such as {', '.join(near)}"
    )


def load_any(path: Path | str) -> tuple[Any, Any]:
    """The image encoder in a local file or folder, a ``.ckpt`` of `sensorium fit` included, and its `Origin`."""
    if Path(path).suffix == ".ckpt":
        from vision.tasks.trained import load_trained  # whoever reads published weights must not load a trainer

        return load_trained(path)
    from vision.load import load_encoder

    return load_encoder(path)


def open_encoder(source: str) -> tuple[Any, Any, tuple[str, ...]]:
    """The encoder in evaluation mode, its `vision.preprocess.Preparation`, and the names of its classes if known."""
    from vision.preprocess import preparation

    model, origin = load_any(find_encoder(source))
    config = model.config
    height, width = config.image
    return model, preparation((height, width), config.channels, origin.preprocessing), origin.labels
