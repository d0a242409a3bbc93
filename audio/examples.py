"""From recordings to a batch for a model: read, change, take the spectrogram, pad."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audio.augment import Changed, SpecAugment, WaveChange, changed
from audio.mel import HOP, SAMPLE_RATE, LogMel
from audio.targets import Targets, padded
from audio.tokenizer import Tokenizer
from core.data.order import Key, keys, uniforms
from core.data.recordings import AudioSet
from core.errors import InputError

__all__ = ["Ear", "SoundExamples", "SpeechExamples", "Words"]

_POSITION = 2 * HOP  # samples in one position of the encoder: 20 ms
_WAVE, _SPECTROGRAM, _TARGET = 1, 2, 3  # seeds of their own: what is drawn for one must not go with the others


@dataclass(frozen=True)
class Ear:
    """How a recording becomes a spectrogram.

    Attributes:
        mels: bands.
        seconds: the longest recording, with its silence; 30 for a released Whisper.
        silence: seconds of silence after each recording; None fills up to `seconds`, as Whisper does.
    """

    mels: int = 80
    seconds: float = 30.0
    silence: float | None = None

    def __post_init__(self) -> None:
        if self.seconds <= 0 or (self.silence is not None and self.silence < 0):
            raise InputError(f"seconds {self.seconds} must be above 0 and silence {self.silence} not negative")

    @property
    def positions(self) -> int:
        """The most encoder positions of a recording."""
        return int(self.seconds * SAMPLE_RATE) // _POSITION

    def samples(self, recorded: int) -> int:
        """Samples of a recording with its silence: a whole number of encoder positions."""
        most = self.positions * _POSITION
        if self.silence is None:
            return most
        wanted = recorded + int(self.silence * SAMPLE_RATE)
        return min(most, max(2, -(-wanted // _POSITION)) * _POSITION)


class SoundExamples:
    """Batches of spectrograms.

    A batch is a dictionary: ``mel`` (B, mels, frames) float32, each zero beyond its own frames; ``positions`` (B,)
    int64, the encoder positions that are a recording's own, where they differ; ``index`` (B,) int64 numbers in the
    set; ``label`` (B,) int64 where the set has labels.

    Args:
        recordings: The set.
        ear: Makes spectrograms.
        changes: Of the waveforms.
        hide: Parts of the spectrograms.
        seed: Seed of the keys.
    """

    def __init__(
        self,
        recordings: AudioSet,
        ear: Ear,
        changes: Sequence[WaveChange] = (),
        hide: SpecAugment | None = None,
        seed: int = 0,
    ) -> None:
        self.recordings = recordings
        self.ear = ear
        self.changes = list(changes)
        self.hide = hide
        self.seed = seed
        self.log_mel = LogMel(ear.mels)

    def __getitems__(self, wanted: list[Key]) -> dict[str, Any]:
        epoch = wanted[0][0]
        waves, taken = self.recordings.take([index for _, index in wanted])
        drawn = np.array([index for _, index in wanted], np.int64)
        heard = [self._changed(wave, key) for wave, key in zip(waves, self._keys(_WAVE, epoch, drawn), strict=True)]
        hidden = self._keys(_SPECTROGRAM, epoch, drawn)
        mels = [self._mel(sound.wave, key) for sound, key in zip(heard, hidden, strict=True)]
        frames = [mel.shape[1] for mel in mels]
        batch: dict[str, Any] = {
            "mel": torch.stack([F.pad(mel, (0, max(frames) - mel.shape[1])) for mel in mels]),
            "index": torch.tensor(taken),
        }
        if min(frames) < max(frames):
            batch["positions"] = torch.tensor(frames) // 2
        return {**batch, **self.told(taken, heard, self._keys(_TARGET, epoch, drawn))}

    def told(self, taken: list[int], heard: list[Changed], randomness: np.ndarray) -> dict[str, Any]:
        """What else is known of the recordings with these numbers: their labels."""
        labels = self.recordings.labels
        return {} if labels is None else {"label": torch.from_numpy(labels[taken])}

    def _keys(self, what: int, epoch: int, indices: np.ndarray) -> np.ndarray:
        return keys(self.seed + what, epoch, indices)

    def _changed(self, wave: Tensor, key: np.uint64) -> Changed:
        found = changed(wave, self.changes, np.array([key]))
        # what has grown beyond the window stays as it was, rather than lose its end
        return found if len(found.wave) <= self.ear.positions * _POSITION else Changed(wave)

    def _mel(self, wave: Tensor, key: np.uint64) -> Tensor:
        """(mels, frames) of a waveform with its silence."""
        samples = self.ear.samples(len(wave))
        mel = self.log_mel(F.pad(wave, (0, samples - len(wave))))
        if self.hide is None:
            return mel
        own = min(mel.shape[1], -(-len(wave) // HOP))
        return torch.cat([self.hide(mel[:, :own], np.array([key])), mel[:, own:]], 1)


@dataclass(frozen=True)
class Words:
    """How what is said becomes tokens.

    Attributes:
        tokenizer: Of the model.
        targets: What it should write.
        context: Positions of its decoder.
    """

    tokenizer: Tokenizer
    targets: Targets
    context: int


class SpeechExamples(SoundExamples):
    """Batches of spectrograms and texts: :class:`SoundExamples` with ``tokens`` and ``labels``, see
    :func:`audio.targets.padded`, and lists ``said`` (texts), ``language`` and ``task``.

    Args:
        recordings, ear, changes, hide, seed: See :class:`SoundExamples`; the set has utterances.
        words: Makes the tokens.
    """

    def __init__(
        self,
        recordings: AudioSet,
        ear: Ear,
        words: Words,
        changes: Sequence[WaveChange] = (),
        hide: SpecAugment | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(recordings, ear, changes, hide, seed)
        self.words = words

    def told(self, taken: list[int], heard: list[Changed], randomness: np.ndarray) -> dict[str, Any]:
        """The texts of the recordings with these numbers."""
        utterances = self.recordings.captions
        assert utterances is not None
        said = [utterances[index] for index in taken]
        targets = self.words.targets
        made = [
            targets(
                self.words.tokenizer,
                utterance,
                len(sound.wave) / SAMPLE_RATE,
                draws,
                self.words.context,
                sound.scale,
                sound.offset,
            )
            for utterance, sound, draws in zip(said, heard, uniforms(randomness, 2).tolist(), strict=True)
        ]
        tokens, labels = padded(made, self.words.tokenizer.eot)
        return {
            "tokens": tokens,
            "labels": labels,
            "said": [utterance.text or "" for utterance in said],
            "language": [utterance.language or targets.language for utterance in said],
            "task": [targets.task or utterance.task for utterance in said],
        }
