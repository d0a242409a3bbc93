"""Whisper's input: the log-mel spectrogram of 16 kHz audio.

Source: openai/whisper ``whisper/audio.py``; filters after Slaney's Auditory Toolbox (1998), as librosa computes them.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "FFT",
    "HOP",
    "SAMPLE_RATE",
    "WINDOW_FRAMES",
    "WINDOW_SECONDS",
    "LogMel",
    "fit_frames",
    "frame_at",
    "mel_filters",
    "seconds_at",
]

SAMPLE_RATE = 16_000  # samples a second
FFT = 400  # samples in one analysis window: 25 ms
HOP = 160  # samples between two frames: 10 ms
WINDOW_SECONDS = 30
WINDOW_FRAMES = WINDOW_SECONDS * SAMPLE_RATE // HOP  # what the encoder takes at once: 3000

_BLOCK = 6_000  # frames transformed at once: bounds the memory of long audio

# Slaney's scale: linear up to 1 kHz, then 27 steps for each factor of 6.4.
_HZ_PER_MEL = 200 / 3
_BREAK_HZ = 1_000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27


@lru_cache(maxsize=8)
def mel_filters(mels: int) -> Tensor:
    """Triangular filters of equal area, evenly spaced on Slaney's mel scale from 0 to 8 kHz: (mels, 201), float32."""
    top = _BREAK_MEL + math.log(SAMPLE_RATE / 2 / _BREAK_HZ) / _LOG_STEP
    points = torch.linspace(0, top, mels + 2, dtype=torch.float64)
    edges = torch.where(  # in Hz: left, centre and right edge of filter i are edges i, i + 1 and i + 2
        points < _BREAK_MEL, points * _HZ_PER_MEL, _BREAK_HZ * torch.exp((points - _BREAK_MEL) * _LOG_STEP)
    )
    bins = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64)
    width = edges.diff()
    rise = (bins - edges[:-2, None]) / width[:-1, None]
    fall = (edges[2:, None] - bins) / width[1:, None]
    triangles = torch.minimum(rise, fall).clamp(min=0)
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).float()


class LogMel:
    """Log-mel spectrogram with `mels` bands (80; 128 for large-v3 and turbo), scaled as Whisper was trained.

    Called with audio (..., samples) in [-1, 1] at 16 kHz it gives (..., mels, samples // 160), float32, on the
    audio's device. `padding` samples of silence are added at the end first. The floor, 8 decades below the loudest
    value, is each row's own: a recording gives the same result alone and in a batch.
    """

    def __init__(self, mels: int = 80) -> None:
        self.mels = mels

    def __call__(self, audio: Tensor, padding: int = 0) -> Tensor:
        """Raises ValueError for audio too short to be mirrored at its ends: less than 201 samples, padding included."""
        audio = F.pad(audio.float(), (0, padding))
        samples = audio.shape[-1]
        if samples <= FFT // 2:
            raise ValueError(f"audio of {samples} samples is too short: at least {FFT // 2 + 1} are needed")
        rows = audio.reshape(1, -1, samples)
        mirrored = F.pad(rows, (FFT // 2, FFT // 2), mode="reflect")[0]  # frame i is centred on sample 160 i
        frames = samples // HOP
        blocks = [
            self.log_power(mirrored[:, first * HOP : (min(first + _BLOCK, frames) - 1) * HOP + FFT])
            for first in range(0, frames, _BLOCK)
        ]
        log = torch.cat(blocks, dim=-1)
        log = self.scaled(log, log.amax(dim=(-2, -1), keepdim=True))
        return log.reshape(*audio.shape[:-1], self.mels, frames)

    def log_power(self, audio: Tensor) -> Tensor:
        """Decades of mel power in the frames that fit into audio: (rows, 160 frames + 240) -> (rows, mels, frames)."""
        window = torch.hann_window(FFT, device=audio.device)
        spectrum = torch.stft(audio, FFT, HOP, window=window, center=False, return_complex=True)
        power = mel_filters(self.mels).to(audio.device) @ spectrum.abs().square_()
        return power.clamp_(min=1e-10).log10_()

    def scaled(self, log: Tensor, peak: Tensor) -> Tensor:
        """What `log_power` gave (..., mels, frames), as the model takes it; `peak` is its largest value."""
        return torch.maximum(log, peak - 8.0).add_(4.0).div_(4.0)


def fit_frames(mel: Tensor, frames: int = WINDOW_FRAMES) -> Tensor:
    """Cut or zero-pad (..., T) at its end to (..., frames): what the encoder takes."""
    return F.pad(mel[..., :frames], (0, max(0, frames - mel.shape[-1])))


def seconds_at(frame: int) -> float:
    """Where a frame lies."""
    return frame * HOP / SAMPLE_RATE


def frame_at(seconds: float) -> int:
    """The nearest frame."""
    return round(seconds * SAMPLE_RATE / HOP)
