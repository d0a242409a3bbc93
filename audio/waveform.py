"""What counts as audio in memory."""

import numpy as np
import torch
from torch import Tensor

from audio.mel import SAMPLE_RATE
from core.errors import InputError

__all__ = ["checked_waveform"]


def checked_waveform(audio: Tensor | np.ndarray) -> Tensor:
    """The samples (n,) of a recording at 16 kHz, float32, on the CPU.

    Raises InputError unless they are one row of floating-point numbers, none of them NaN or infinite.
    """
    waveform = torch.as_tensor(audio)
    if waveform.ndim != 1 or not waveform.is_floating_point():
        raise InputError(
            f"a waveform must be one-dimensional floating-point samples in [-1, 1] at {SAMPLE_RATE} Hz, "
            f"not {str(waveform.dtype).removeprefix('torch.')} of shape {tuple(waveform.shape)}"
        )
    if not waveform.isfinite().all():
        raise InputError("the waveform holds values that are no numbers (NaN or infinite)")
    return waveform.float().cpu()
