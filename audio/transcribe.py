"""Transcribe recordings of any length: 30 s windows, each starting where the last spoken segment ended.

Source of the windows' rules: openai/whisper ``whisper/transcribe.py``.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from audio.align import Word
from audio.decode import Decoder, DecodingResult, Search
from audio.fallback import Fallback
from audio.languages import language_code
from audio.mel import HOP, SAMPLE_RATE, WINDOW_FRAMES, WINDOW_SECONDS, LogMel, fit_frames
from audio.tokenizer import Task, Tokenizer
from audio.whisper import Whisper
from core.data.audio import read_audio
from core.errors import InputError

__all__ = ["Segment", "Settings", "Transcriber", "Transcript", "Transcription", "Window"]

DOUBTFUL = 0.5  # what was drawn at a higher temperature is not shown to the model: it might go on like that

Audio = str | os.PathLike[str] | Tensor | np.ndarray


@dataclass(frozen=True)
class Segment:
    """A stretch of speech."""

    start: float  # seconds from the start of the recording
    end: float
    text: str  # as the model wrote it: most begin with a space
    tokens: tuple[int, ...]  # with timestamps
    avg_logprob: float  # this and what follows are the whole window's, see DecodingResult
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    words: tuple[Word, ...] = ()  # when they were asked for


@dataclass(frozen=True)
class Transcript:
    """All that was said in a recording."""

    segments: tuple[Segment, ...]
    language: str
    duration: float  # of the recording, seconds

    @property
    def text(self) -> str:
        """The segments' texts in one line."""
        return "".join(segment.text for segment in self.segments).strip()


@dataclass(frozen=True)
class Window:
    """One step of a transcription."""

    segments: tuple[Segment, ...]  # newly found; none when nobody spoke
    position: float  # seconds of the recording that are done


@dataclass(frozen=True)
class Settings:
    """How a recording is heard.

    Attributes:
        language: code or English name; None detects it in the first 30 s.
        task: whether to write what is said, or its English translation.
        condition_on_previous_text: show the model what it wrote so far.
        initial_prompt: text that the model is shown before the first window: names, spelling, style.
        carry_initial_prompt: show it before every window.
        search: how the text of a window is looked for.
        fallback: what is decoded again.
    """

    language: str | None = None
    task: Task = "transcribe"
    condition_on_previous_text: bool = True
    initial_prompt: str | None = None
    carry_initial_prompt: bool = False
    search: Search = field(default_factory=Search)
    fallback: Fallback = field(default_factory=Fallback)


class Transcriber:
    """Speech to text with a Whisper model.

    ``Transcriber(model, tokenizer)("talk.mp3").text``, or, to see the text as it comes::

        for window in transcriber.start("talk.mp3"):
            print(window.position, window.segments)
    """

    def __init__(self, model: Whisper, tokenizer: Tokenizer | None = None, settings: Settings = Settings()) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer or Tokenizer.for_vocab(model.config.vocab)
        self.settings = settings
        self.decoder = Decoder(model, self.tokenizer)
        self.log_mel = LogMel(model.config.mels)
        if settings.language is not None:  # a wrong one is told before any audio is read
            self.tokenizer.sot_sequence(settings.language, settings.task)

    def __call__(self, audio: Audio) -> Transcript:
        """Transcribe a file, or a waveform (samples,) at 16 kHz.

        Raises InputError when it can't be read, and for a language that the model doesn't know.
        """
        return self.start(audio).finish()

    def start(self, audio: Audio) -> "Transcription":
        """Begin to transcribe a file, or a waveform (samples,) at 16 kHz: iterate over the result for its windows."""
        return Transcription(self, _waveform(audio))


class Transcription:
    """One recording being transcribed.

    Iterating over it does the work, window by window, and can be interrupted and continued.
    """

    def __init__(self, transcriber: Transcriber, waveform: Tensor) -> None:
        self.settings = transcriber.settings
        self.tokenizer = transcriber.tokenizer
        self.decoder = transcriber.decoder
        self.duration = len(waveform) / SAMPLE_RATE
        # Silence after the end, so that the last frames are computed as if the recording went on.
        self.mel = transcriber.log_mel(waveform, padding=WINDOW_SECONDS * SAMPLE_RATE)
        self.frames = self.mel.shape[-1] - WINDOW_FRAMES
        self.frames_per_step = (
            WINDOW_FRAMES // transcriber.model.config.audio_context
        )  # of a timestamp: 2 frames, 20 ms
        self.language = language_code(self.settings.language or self._detect_language())
        self.segments: list[Segment] = []
        asked = self.settings.initial_prompt
        self.initial = self.tokenizer.encode(" " + asked.strip()) if asked and asked.strip() else []
        self.said = list(self.initial)  # the tokens so far
        self.shown_from = 0  # of these, the first that the model is shown
        self.seek = 0  # the frame at which the next window begins

    def __iter__(self) -> Iterator[Window]:
        while self.seek < self.frames:
            segments = self._next_window()
            self.segments += segments
            yield Window(tuple(segments), _seconds(min(self.seek, self.frames)))

    def finish(self) -> Transcript:
        """Do the remaining windows and return everything."""
        for _ in self:
            continue
        return self.transcript

    @property
    def transcript(self) -> Transcript:
        """What was found so far."""
        return Transcript(tuple(self.segments), self.language, self.duration)

    def _detect_language(self) -> str:
        if not self.tokenizer.multilingual:
            return "en"
        audio = self.decoder.encode(fit_frames(self.mel)[None])
        return next(iter(self.decoder.detect_language(audio)[0]))

    def _next_window(self) -> list[Segment]:
        """Decode the window at `seek`, move `seek` on, and return the segments with text."""
        size = min(WINDOW_FRAMES, self.frames - self.seek)
        mel = fit_frames(self.mel[:, self.seek : self.seek + size])
        audio = self.decoder.encode(mel[None])
        settings = self.settings
        fallback = settings.fallback
        result = fallback(
            self.decoder, audio, self.language, settings.task, self._prompt(), settings.search, [self.seek]
        )[0]
        if fallback.silent(result):
            self.seek += size
            return []
        pieces, advance = self._cut(result.tokens, size)
        segments = [self._segment(piece, result) for piece in pieces]
        self.seek += advance
        segments = [segment for segment in segments if segment.end != segment.start and segment.text.strip()]
        self.said += [token for segment in segments for token in segment.tokens]
        if not settings.condition_on_previous_text or result.temperature > DOUBTFUL:
            self.shown_from = len(self.said)
        return segments

    def _prompt(self) -> list[int]:
        if not self.settings.carry_initial_prompt:
            return self.said[self.shown_from :]
        room = max(self.decoder.context // 2 - 1 - len(self.initial), 0)
        since = self.said[max(len(self.initial), self.shown_from) :]
        return self.initial + (since[-room:] if room else [])

    def _cut(self, tokens: list[int], size: int) -> tuple[list["_Piece"], int]:
        """Cut the tokens of a window of `size` frames where the end of one segment meets the start of the next.

        Also says by how many frames the next window begins later. A last segment that has a start but no end is left
        out, and the next window begins where it would: there it is heard whole.
        """
        stamped = [token >= self.tokenizer.timestamp_begin for token in tokens]
        cuts = [i for i in range(1, len(tokens)) if stamped[i - 1] and stamped[i]]
        if not cuts:
            ends = [frame for frame in map(self._frame, tokens) if frame > 0]
            return [_Piece(0, ends[-1] if ends else size, tokens)], size
        ends_in_silence = stamped[-2:] == [False, True]
        if ends_in_silence:
            cuts.append(len(tokens))
        parts = [tokens[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
        pieces = [_Piece(self._frame(part[0]), self._frame(part[-1]), part) for part in parts]
        return pieces, size if ends_in_silence else pieces[-1].end

    def _frame(self, token: int) -> int:
        """The frame of its window at which a timestamp lies; below 0 for any other token."""
        return (token - self.tokenizer.timestamp_begin) * self.frames_per_step

    def _segment(self, piece: "_Piece", result: DecodingResult) -> Segment:
        return Segment(
            start=_seconds(self.seek + piece.start),
            end=_seconds(self.seek + piece.end),
            text=self.tokenizer.decode(token for token in piece.tokens if token < self.tokenizer.eot),
            tokens=tuple(piece.tokens),
            avg_logprob=result.avg_logprob,
            no_speech_prob=result.no_speech_prob,
            compression_ratio=result.compression_ratio,
            temperature=result.temperature,
        )


class _Piece(NamedTuple):
    """A segment within its window, in frames."""

    start: int
    end: int
    tokens: list[int]


def _seconds(frames: int) -> float:
    return frames * HOP / SAMPLE_RATE


def _waveform(audio: Audio) -> Tensor:
    """A file's or an array's samples: (samples,), float32, on the CPU."""
    if isinstance(audio, str | os.PathLike):
        return read_audio(audio, SAMPLE_RATE)
    waveform = torch.as_tensor(audio)
    if waveform.ndim != 1 or not waveform.is_floating_point():
        raise InputError(
            f"a waveform must be one-dimensional floating-point samples in [-1, 1] at {SAMPLE_RATE} Hz, "
            f"not {str(waveform.dtype).removeprefix('torch.')} of shape {tuple(waveform.shape)}"
        )
    if not waveform.isfinite().all():
        raise InputError("the waveform holds values that are no numbers (NaN or infinite)")
    return waveform.float().cpu()
