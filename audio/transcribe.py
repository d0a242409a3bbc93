"""Transcribe recordings of any length: 30 s windows, each starting where the last spoken segment ended.

Source of the windows' rules: openai/whisper ``whisper/transcribe.py``.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from audio.align import Aligner
from audio.cut import Piece, cut
from audio.decode import Decoder, DecodingResult
from audio.hallucination import Span, keep_heard
from audio.languages import language_code
from audio.mel import HOP, SAMPLE_RATE, WINDOW_FRAMES, WINDOW_SECONDS, LogMel, fit_frames
from audio.settings import Settings
from audio.tokenizer import Tokenizer
from audio.transcript import Segment, Transcript
from audio.whisper import Whisper
from audio.words import spoken_end, timed_segments
from core.data.audio import read_audio
from core.errors import InputError

__all__ = ["Segment", "Settings", "Transcriber", "Transcript", "Transcription", "Window"]

DOUBTFUL = 0.5  # what was drawn at a higher temperature is not shown to the model: it might go on like that

Audio = str | os.PathLike[str] | Tensor | np.ndarray


@dataclass(frozen=True)
class Window:
    """One step of a transcription."""

    segments: tuple[Segment, ...]  # newly found; none when nobody spoke
    position: float  # seconds of the recording that are done


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
        self.aligner = Aligner(model, self.tokenizer)
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
        self.aligner = transcriber.aligner
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
        self.spoken_until = 0.0  # where the last word ended, seconds
        self.clips = deque(self.settings.clips(self.frames))  # the first is being heard
        self.seek = self.clips[0][0]  # the frame at which the next window begins

    def __iter__(self) -> Iterator[Window]:
        while self.clips:
            while self.seek < self.clips[0][1]:
                segments = self._next_window()
                self.segments += segments
                yield Window(tuple(segments), _seconds(min(self.seek, self.frames)))
            self.clips.popleft()
            if self.clips:
                self.seek = self.clips[0][0]

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
        begin, settings = self.seek, self.settings
        size = min(WINDOW_FRAMES, self.clips[0][1] - begin)
        audio = self.decoder.encode(fit_frames(self.mel[:, begin : begin + size])[None])
        result = settings.fallback(
            self.decoder, audio, self.language, settings.task, self._prompt(), settings.search, [begin]
        )[0]
        self.seek = begin + size
        if settings.fallback.silent(result):
            return []
        found = cut(result.tokens, size, self.tokenizer.timestamp_begin, self.frames_per_step)
        self.seek = begin + found.advance
        segments = [self._segment(piece, begin, result) for piece in found.pieces]
        if settings.word_timestamps:
            segments = self._with_words(segments, audio, begin, size, found.ends_in_silence)
        segments = [segment for segment in segments if segment.end != segment.start and segment.text.strip()]
        self.said += [token for segment in segments for token in segment.tokens]
        if not settings.condition_on_previous_text or result.temperature > DOUBTFUL:
            self.shown_from = len(self.said)
        return segments

    def _with_words(
        self, segments: list[Segment], audio: Tensor, begin: int, size: int, ends_in_silence: bool
    ) -> list[Segment]:
        """Segments with their words; moves `seek` to where the last word ends, or beyond what was invented."""
        settings, eot = self.settings, self.tokenizer.eot
        span = Span(_seconds(begin), _seconds(begin + size), _seconds(begin + WINDOW_FRAMES))
        text = [token for segment in segments for token in segment.tokens if token < eot]
        timings = self.aligner(audio, [text], [size], self.language, settings.task)[0]
        segments = timed_segments(segments, timings, span.start, self.spoken_until, eot, settings.punctuation)
        end, threshold = spoken_end(segments), settings.hallucination_silence_threshold
        if not ends_in_silence and end is not None and end > span.start:
            rest_is_short = threshold is not None and span.full - end <= threshold
            self.seek = begin + size if rest_is_short else _frame(end)
        if threshold is not None:
            segments, again = keep_heard(segments, span, self.spoken_until, _seconds(self.frames), threshold)
            self.seek = self.seek if again is None else _frame(again)
            end = spoken_end(segments)
        self.spoken_until = self.spoken_until if end is None else end
        self.seek = max(self.seek, begin + 1)  # rounded, a short word could end where the window begins
        return segments

    def _prompt(self) -> list[int]:
        if not self.settings.carry_initial_prompt:
            return self.said[self.shown_from :]
        room = max(self.decoder.context // 2 - 1 - len(self.initial), 0)
        since = self.said[max(len(self.initial), self.shown_from) :]
        return self.initial + (since[-room:] if room else [])

    def _segment(self, piece: Piece, begin: int, result: DecodingResult) -> Segment:
        return Segment(
            start=_seconds(begin + piece.start),
            end=_seconds(begin + piece.end),
            text=self.tokenizer.decode(token for token in piece.tokens if token < self.tokenizer.eot),
            tokens=tuple(piece.tokens),
            avg_logprob=result.avg_logprob,
            no_speech_prob=result.no_speech_prob,
            compression_ratio=result.compression_ratio,
            temperature=result.temperature,
        )


def _seconds(frames: int) -> float:
    return frames * HOP / SAMPLE_RATE


def _frame(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / HOP)


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
