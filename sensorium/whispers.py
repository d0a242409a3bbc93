"""Whispers by name, for the commands: where one is, a ``.ckpt`` of `sensorium fit` included."""

from pathlib import Path
from typing import Any

__all__ = ["is_whisper", "open_whisper"]


def open_whisper(path: Path | str) -> tuple[Any, Any]:
    """The Whisper in a local file or folder, and where it came from: an `audio.weights.WhisperInfo`."""
    if Path(path).suffix == ".ckpt":
        from audio.tasks.trained import load_trained_whisper  # whoever reads published weights must not load a trainer

        return load_trained_whisper(path)
    from audio.weights import load_whisper

    return load_whisper(path)


def is_whisper(path: Path | str) -> bool:
    """Whether a local file or folder holds a Whisper.

    Raises `InputError` if it is none of the formats that are read.
    """
    from core.weights import is_bundle, read, read_bundle

    path = Path(path)
    if path.suffix == ".ckpt":
        from core.train.checkpoint import read_recipe

        return str((read_recipe(path).get("model") or {}).get("class_path")).startswith("audio.")
    if is_bundle(path):
        return read_bundle(path).model.startswith("audio.")
    names = read(path).tensors
    return any(
        name.startswith(("decoder.blocks.", "model.decoder.", "decoder/layer_"))
        for name in names
        if "patch_embed" not in name
    ) and any(name.startswith(("encoder.conv1", "model.encoder.conv1", "encoder/conv1")) for name in names)
