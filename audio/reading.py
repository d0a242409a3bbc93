"""What is read of a recording: the passages to be heard, as they come."""

import os
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from torch import Tensor

from audio.long_mel import LongMel
from audio.mel import HOP, SAMPLE_RATE, WINDOW_FRAMES, WINDOW_SECONDS, LogMel, fit_frames, seconds_at
from audio.passage import History, Passage, Recorded
from audio.settings import Settings
from audio.speech import VoiceActivity, speech_windows
from audio.waveform import checked_waveform
from core.data.audio import Recording

__all__ = ["Audio", "Source", "passages"]

Audio = str | os.PathLike[str] | Recording | Tensor | np.ndarray

_BLOCK = 10 * SAMPLE_RATE  # samples of a waveform that are looked at at once


class Source:
    """A recording at 16 kHz, in blocks.

    Attributes:
        promised: seconds that it says it lasts; None when it doesn't say.
        samples: read so far.
    """

    def __init__(self, audio: Audio) -> None:
        """A file, or a waveform (samples,) at 16 kHz; raises InputError when it is none."""
        if isinstance(audio, str | os.PathLike):
            audio = Recording(audio, SAMPLE_RATE)
        self.audio = audio if isinstance(audio, Recording) else checked_waveform(audio)
        self.samples = 0

    @property
    def promised(self) -> float | None:
        if isinstance(self.audio, Recording):
            return self.audio.promised
        return len(self.audio) / SAMPLE_RATE

    def blocks(self) -> Iterator[Tensor]:
        """From the start: (samples,), float32, on the CPU."""
        self.samples = 0
        for block in self.audio.blocks() if isinstance(self.audio, Recording) else self.audio.split(_BLOCK):
            self.samples += len(block)
            yield block


def passages(
    source: Source,
    recorded: Recorded,
    settings: Settings,
    history: Callable[[], History],
    log_mel: LogMel,
    detect: Callable[[Tensor], str],
    window: int = WINDOW_FRAMES,
) -> Iterator[Passage]:
    """The passages of a recording, while it is read: windows of speech, or the clips that are asked for.

    Args:
        source: of the recording.
        recorded: gets its language, if it is detected before anything is heard.
        settings: say which.
        history: makes a history that nothing was said in.
        log_mel: of the model.
        detect: the likeliest language of a window (mels, `window`).
        window: frames that the model hears at once.
    """
    if settings.speech is None:
        yield from _clips(source, recorded, settings, history(), log_mel, detect, window)
    else:
        yield from _speech(source, recorded, settings.speech, history, log_mel, window)


def _speech(
    source: Source,
    recorded: Recorded,
    rule: VoiceActivity,
    history: Callable[[], History],
    log_mel: LogMel,
    window: int,
) -> Iterator[Passage]:
    said = history()
    for spoken in speech_windows(source.blocks(), rule):
        begin = spoken.start // HOP
        end = begin + len(spoken.audio) // HOP
        # Silence after the end, not zeros in the spectrogram, as where windows follow one another: those are a loud
        # noise, and more words would be wrong.
        mel = log_mel(spoken.audio, padding=WINDOW_SECONDS * SAMPLE_RATE)
        frames = partial(_part, mel, begin, window)
        yield Passage(recorded, frames, begin, end, end, said, to_last_word=False, longest=window)
        if not recorded.in_turn:
            said = history()
            said.prefix = []  # how the first window begins
            said.spoken_until = seconds_at(end)


def _clips(
    source: Source,
    recorded: Recorded,
    settings: Settings,
    said: History,
    log_mel: LogMel,
    detect: Callable[[Tensor], str],
    window: int,
) -> Iterator[Passage]:
    recorded.in_turn = True  # the spectrogram is made as it is heard, from the start to the end
    mel = LongMel(log_mel, source.blocks)
    if recorded.language is None and not settings.multilingual:
        recorded.language = detect(mel(0, window))
    for begin, end in settings.clips(mel.frames):
        if begin < end:
            yield Passage(recorded, partial(_padded, mel, window), begin, end, mel.frames, said, longest=window)


def _part(mel: Tensor, begin: int, window: int, first: int, count: int) -> Tensor:
    """A window from frame `first` on of a spectrogram (mels, T) that begins with frame `begin`."""
    return mel[:, first - begin : first - begin + window]


def _padded(mel: LongMel, window: int, first: int, count: int) -> Tensor:
    """`count` frames from frame `first` on, and zeros up to a window."""
    return fit_frames(mel(first, count), window)
