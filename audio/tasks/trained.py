"""The Whisper of a checkpoint of ours."""

from pathlib import Path

from audio.weights import WhisperInfo
from audio.whisper import Whisper
from core.errors import InputError
from core.train.rebuild import rebuild

__all__ = ["load_trained_whisper"]


def load_trained_whisper(path: Path | str) -> tuple[Whisper, WhisperInfo]:
    """Load what a ``.ckpt`` of ``sensorium fit`` was trained for; with averaged weights where there are some.

    Raises:
        InputError: If the file is no such checkpoint, or the task trained no Whisper.
    """
    model = rebuild(path).model
    if not isinstance(model, Whisper):
        raise InputError(f"{path} is no Whisper but a trained {type(model).__name__}")
    return model.eval(), WhisperInfo("checkpoint", None)
