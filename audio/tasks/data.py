"""Recordings for training and evaluation: a LightningDataModule over any format on disk."""

import warnings
from typing import Any

import numpy as np

from audio.augment import SpecAugment, WaveChange
from audio.examples import Ear, SoundExamples, SpeechExamples, Words
from audio.targets import Targets, languages_known
from audio.tokenizer import Tokenizer
from core.data.lengths import LengthOrder
from core.data.order import BatchOrder
from core.data.recordings import RATE, AudioFormat, AudioSet, Held
from core.data.sets import ItemSet, Part, Split
from core.data.utterance import Utterance
from core.errors import InputError
from core.train.data import ItemData

__all__ = ["AudioData", "SpeechData"]

_CONTROL = 6  # tokens of a target that are neither text nor timestamps, at most


class AudioData(ItemData):
    """A data set of recordings.

    Recordings that can't be read, or are longer than the window, are passed over in training and validation, and
    listed in ``bad_recordings.txt``: see :class:`core.train.data.ItemData`. Reading and spectrograms are the work of
    other processes, ``workers``.

    Args:
        root, batch_size, items: See :class:`core.train.data.ItemData`.
        format: How the data lies there, such as ``core.data.recordings.AudioFolder``.
        ear: Makes spectrograms.
        changes: Of the waveforms in training, one after the other.
        hide: Parts of the spectrograms in training.
        batch_seconds: Seconds of sound, silence included, in a global batch of recordings of about the same length
            (:class:`core.data.lengths.LengthOrder`), at most ``batch_size`` of them, instead of ``batch_size`` of any
            length. It pays where the ear has a ``silence``. The lengths should stand in the data set, else every
            recording is read for its length first.
        batch_multiple: What the number of recordings in these batches is a multiple of; by default the number of
            processes. Set, it lets any number of processes that divides it see the same batches.
        keep: Bytes of decoded recordings that each process may keep.
    """

    def __init__(
        self,
        root: str,
        format: AudioFormat,
        ear: Ear = Ear(),
        changes: list[WaveChange] | None = None,
        hide: SpecAugment | None = None,
        batch_size: int = 32,
        batch_seconds: float | None = None,
        batch_multiple: int | None = None,
        keep: int = 1 << 30,
        **items: Any,
    ) -> None:
        super().__init__(root, batch_size, **items)
        self.format = format
        self.ear = ear
        self.changes = changes or []
        self.hide = hide
        self.batch_seconds = batch_seconds
        self.batch_multiple = batch_multiple
        self.keep = keep

    def _read(self, split: Split) -> AudioSet | None:
        found = self.format.open(self.root, split)
        return None if found is None else Held(found, self.keep, self.ear.seconds)

    def _examples(self, items: ItemSet[Any], training: bool) -> SoundExamples:
        changes, hide = (self.changes, self.hide) if training else ([], None)
        return SoundExamples(items, self.ear, changes, hide, self.seed)

    def _training_order(self, items: ItemSet[Any]) -> BatchOrder:
        if self.batch_seconds is None:
            return super()._training_order(items)
        # what a recording fills once it has its silence
        filled = [self.ear.samples(int(seconds * RATE)) / RATE for seconds in _lengths(items)]
        rank, world = self._place()
        most, multiple = self.batch_size, self.batch_multiple
        return LengthOrder(filled, self.batch_seconds, self.seed, most=most, multiple=multiple, rank=rank, world=world)


class SpeechData(AudioData):
    """A data set of recordings whose words are known.

    Recordings without a text, or with a longer one than the decoder takes, are left out of training and validation.

    Args:
        root, format, audio: See :class:`AudioData`.
        targets: What the model should write.
        vocab: Size of the model's vocabulary: 51864 English only, 51865 multilingual, 51866 from large-v3 on.
        context: Positions of the model's decoder.
    """

    def __init__(
        self,
        root: str,
        format: AudioFormat,
        targets: Targets = Targets(),
        vocab: int = 51865,
        context: int = 448,
        **audio: Any,
    ) -> None:
        super().__init__(root, format, **audio)
        self.words = Words(Tokenizer.for_vocab(vocab), targets, context)

    def _examples(self, items: ItemSet[Any], training: bool) -> SoundExamples:
        if items is self._sets.get("predict"):  # what is said in them is not known yet
            return super()._examples(items, training)
        changes, hide = (self.changes, self.hide) if training else ([], None)
        return SpeechExamples(items, self.ear, self.words, changes, hide, self.seed)

    def _read(self, split: Split) -> AudioSet | None:
        found = super()._read(split)
        if found is None or split == "predict":
            return found
        utterances = found.captions
        if utterances is None or not any(said.text is not None for said in utterances):
            raise InputError(f"{self.root}: nothing tells what is said in the recordings")
        languages_known(self.words.tokenizer, self.words.targets, utterances)
        fits = np.array([self._fits(said) for said in utterances])
        if fits.all():
            return found
        if split == "test" or not fits.any():
            raise InputError(
                f"{found.name(int(np.argmin(fits)))} has no text, or more than {self.words.context} tokens"
            )
        warnings.warn(
            f"{np.count_nonzero(~fits)} of {len(fits)} recordings have no text, or too long a one for the decoder: "
            f"left out, the first is {found.name(int(np.argmin(fits)))}",
            stacklevel=2,
        )
        return Part(found, np.flatnonzero(fits))

    def _fits(self, said: Utterance) -> bool:
        """Whether there is a text, and it fits with its timestamps."""
        if said.text is None:
            return False
        stamps = 2 * max(1, len(said.segments))
        return len(self.words.tokenizer.encode(said.text)) + stamps + _CONTROL <= self.words.context


def _lengths(items: ItemSet[Any]) -> list[float]:
    """Seconds of each recording: as the data set tells them, or measured."""
    said = items.captions or []
    told = [utterance.seconds for utterance in said]
    if told and None not in told:
        return [seconds for seconds in told if seconds is not None]
    return [len(items.read([index])[0]) / RATE for index in range(len(items))]
