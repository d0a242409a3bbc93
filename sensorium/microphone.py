"""The microphone, through the extra ``mic``."""

from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["microphone"]

BLOCK = 0.1  # seconds


def microphone(rate: int = 16_000) -> Iterator[Tensor]:
    """Blocks (n,) of what the default microphone hears, float32 in [-1, 1], without an end.

    Raises InputError when there is none, or no package to hear it with.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # the second: without PortAudio
        raise InputError(
            f"the microphone needs sounddevice and PortAudio ({error}): pip install 'sensorium[mic]'"
        ) from error
    heard: SimpleQueue[Tensor] = SimpleQueue()

    def keep(samples: Any, *_: Any) -> None:
        heard.put(torch.from_numpy(samples[:, 0].copy()))

    try:
        stream = sounddevice.InputStream(rate, int(BLOCK * rate), channels=1, dtype="float32", callback=keep)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise InputError(f"the microphone can't be used: {error}") from error
    with stream:
        while True:
            yield heard.get()
