"""Recordings and spectrograms varied for training; whatever is random follows from a recording's own key."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.audio import read_audio, resample
from core.data.order import Keys, keys, uniforms
from core.data.recordings import RATE, sounds
from core.errors import InputError

__all__ = ["AddNoise", "Changed", "Shift", "SpecAugment", "Speed", "Volume", "WaveChange", "changed"]


class Changed(NamedTuple):
    """A changed recording: what was heard at a time t is heard at offset + scale * t (seconds)."""

    wave: Tensor  # (samples,)
    scale: float = 1.0
    offset: float = 0.0


class WaveChange(ABC):
    """A change of a waveform (samples,) at 16 kHz."""

    @abstractmethod
    def __call__(self, wave: Tensor, key: Keys) -> Changed:
        """Change it as its key says, (1,) uint64."""


def changed(wave: Tensor, changes: Sequence[WaveChange], key: Keys) -> Changed:
    """Make several changes, one after the other, each with a key of its own."""
    scale, offset = 1.0, 0.0
    for number, change in enumerate(changes):
        wave, more, later = change(wave, keys(number, int(key[0]), np.zeros(1)))
        scale, offset = scale * more, later + more * offset
    return Changed(wave, scale, offset)


class Speed(WaveChange):
    """Plays faster or slower, which changes the pitch too (Ko et al. 2015, Audio augmentation for speech recognition).

    Args:
        factors: One of them is drawn; 1.1 is faster. Those with small numerators and denominators are quick.
    """

    def __init__(self, factors: tuple[float, ...] = (0.9, 1.0, 1.1)) -> None:
        if not factors or min(factors) < 0.5 or max(factors) > 2:
            raise InputError(f"speed factors {factors}: expected one or more in [0.5, 2]")
        self.factors = tuple(factors)

    def __call__(self, wave: Tensor, key: Keys) -> Changed:
        """Resample."""
        factor = self.factors[int(uniforms(key, 1)[0, 0] * len(self.factors))]
        if factor == 1:
            return Changed(wave)
        return Changed(resample(wave, round(RATE * factor), RATE), 1 / factor)


class Volume(WaveChange):
    """Makes louder or softer; what would be louder than full scale is clipped.

    Args:
        decibels: The gain is drawn from [-decibels, decibels].
    """

    def __init__(self, decibels: float = 6.0) -> None:
        if decibels < 0:
            raise InputError(f"decibels {decibels}: expected the largest gain, 0 or more")
        self.decibels = decibels

    def __call__(self, wave: Tensor, key: Keys) -> Changed:
        """Multiply."""
        gain = (2 * float(uniforms(key, 1)[0, 0]) - 1) * self.decibels
        return Changed((wave * 10 ** (gain / 20)).clamp_(-1.0, 1.0))


class Shift(WaveChange):
    """Puts silence before the recording.

    Args:
        seconds: At most so much.
    """

    def __init__(self, seconds: float = 0.2) -> None:
        if seconds < 0:
            raise InputError(f"seconds {seconds}: expected 0 or more")
        self.seconds = seconds

    def __call__(self, wave: Tensor, key: Keys) -> Changed:
        """Shift."""
        silence = int(float(uniforms(key, 1)[0, 0]) * self.seconds * RATE)
        return Changed(F.pad(wave, (silence, 0)), 1.0, silence / RATE)


class AddNoise(WaveChange):
    """Adds noise: white, or a piece of a recording.

    Args:
        snr: The ratio of the recording's power to the noise's, in decibels, is drawn from this range.
        probability: Share of the recordings that get any.
        folder: Recordings of noise; None for white noise.
    """

    def __init__(
        self, snr: tuple[float, float] = (10.0, 40.0), probability: float = 0.5, folder: str | None = None
    ) -> None:
        if snr[0] > snr[1] or not 0 <= probability <= 1:
            raise InputError(f"snr {snr} must rise, and probability {probability} lie in [0, 1]")
        self.snr = snr
        self.probability = probability
        self.paths = [] if folder is None else sounds(Path(folder).expanduser())
        if folder is not None and not self.paths:
            raise InputError(f"{folder}: no recordings of noise below it")

    def __call__(self, wave: Tensor, key: Keys) -> Changed:
        """Add."""
        chosen, level, which, where = uniforms(key, 4)[0]
        power = float(wave.square().mean())
        if chosen >= self.probability or power == 0:
            return Changed(wave)
        if self.paths:
            noise = _piece(read_audio(self.paths[int(which * len(self.paths))]), len(wave), float(where))
        else:
            noise = _white(len(wave), key)
        loud = float(noise.square().mean())
        if loud == 0:
            return Changed(wave)
        snr = self.snr[0] + float(level) * (self.snr[1] - self.snr[0])
        return Changed((wave + noise * math.sqrt(power / loud * 10 ** (-snr / 10))).clamp_(-1.0, 1.0))


class SpecAugment:
    """Hides stretches of time and bands of frequency behind the mean (Park et al. 2019, arXiv:1904.08779, section 2).

    Args:
        times, bands: How many of each.
        time: The longest stretch, as a share of the recording.
        band: The widest band, as a share of all.
    """

    def __init__(self, times: int = 2, time: float = 0.1, bands: int = 2, band: float = 0.2) -> None:
        if min(times, bands) < 0 or not (0 <= time <= 1 and 0 <= band <= 1):
            raise InputError(f"times {times} and bands {bands} must be >= 0, time {time} and band {band} in [0, 1]")
        self.times, self.time, self.bands, self.band = times, time, bands, band

    def __call__(self, mel: Tensor, key: Keys) -> Tensor:
        """Hide parts of (mels, frames); the frames are those of the recording, without padding."""
        hidden = torch.zeros_like(mel, dtype=torch.bool)
        draws = uniforms(key, 2 * (self.times + self.bands))[0]
        for number in range(self.times):
            first, end = _stretch(mel.shape[1], self.time, draws[2 * number : 2 * number + 2])
            hidden[:, first:end] = True
        for number in range(self.times, self.times + self.bands):
            first, end = _stretch(mel.shape[0], self.band, draws[2 * number : 2 * number + 2])
            hidden[first:end] = True
        return torch.where(hidden, mel.mean(), mel)


def _stretch(size: int, most: float, draws: np.ndarray) -> tuple[int, int]:
    """Where a stretch of at most `most` of `size` begins and ends."""
    length = int(draws[0] * (int(most * size) + 1))
    first = int(draws[1] * (size - length + 1))
    return first, first + length


def _white(samples: int, key: Keys) -> Tensor:
    # a generator of its own: Gaussian numbers from the key alone
    generator = torch.Generator().manual_seed(int(key[0] >> np.uint64(1)))
    return torch.randn(samples, generator=generator)


def _piece(noise: Tensor, samples: int, where: float) -> Tensor:
    """So many samples of a recording, from somewhere; it is repeated if it is shorter."""
    if len(noise) < samples:
        noise = noise.repeat(-(-samples // len(noise)))
    first = int(where * (len(noise) - samples + 1))
    return noise[first : first + samples]
