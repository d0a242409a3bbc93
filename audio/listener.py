"""Hear windows of several passages at once: each gives what it would alone.

Source of the rules: openai/whisper ``whisper/transcribe.py``.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from audio.align import Aligner, Timing
from audio.cut import Piece, cut
from audio.decode import Decoder, DecodingResult
from audio.hallucination import Span, keep_heard
from audio.mel import frame_at, seconds_at
from audio.passage import Passage
from audio.settings import Settings
from audio.transcript import Segment
from audio.words import spoken_end, timed_segments

__all__ = ["Listener"]


class _Found(NamedTuple):
    """What a window holds."""

    segments: list[Segment]
    seek: int  # the frame at which the next window begins
    ends_in_silence: bool  # the model closed the last segment and began no other


class Listener:
    """Decodes and aligns the next window of each of some passages."""

    def __init__(self, decoder: Decoder, aligner: Aligner, settings: Settings) -> None:
        self.decoder = decoder
        self.aligner = aligner
        self.tokenizer = decoder.tokenizer
        self.settings = settings

    def __call__(self, passages: Sequence[Passage]) -> None:
        """Hear the next window of each: they get its segments, and their `seek` moves on."""
        windows = torch.stack([passage.window() for passage in passages])
        audio = self.decoder.encode(windows, [passage.size for passage in passages])
        languages = self._languages(passages, audio)
        results = self._decoded(passages, audio, languages)
        found = [self._found(passage, result) for passage, result in zip(passages, results, strict=True)]
        if self.settings.word_timestamps:
            timings = self._aligned(passages, audio, found, languages)
            found = [self._timed(*parts) for parts in zip(passages, found, timings, strict=True)]
        for passage, result, window in zip(passages, results, found, strict=True):
            segments = [part for part in window.segments if part.end != part.start and part.text.strip()]
            passage.segments += segments
            passage.seek = window.seek
            passage.history.add(segments, result.temperature)

    def detect_language(self, audio: Tensor) -> list[str]:
        """The likeliest language of each window of `audio` (B, S, D)."""
        return [next(iter(likely)) for likely in self.decoder.detect_language(audio)]

    def _languages(self, passages: Sequence[Passage], audio: Tensor) -> list[str]:
        if self.settings.multilingual:
            return self.detect_language(audio)
        unknown = [row for row, passage in enumerate(passages) if passage.recorded.language is None]
        if unknown:
            for row, code in zip(unknown, self.detect_language(audio[unknown]), strict=True):
                passages[row].recorded.language = code
        return [passage.recorded.language or "en" for passage in passages]

    def _decoded(self, passages: Sequence[Passage], audio: Tensor, languages: list[str]) -> list[DecodingResult]:
        """Windows that the model is shown the same text before are decoded together."""
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for row, passage in enumerate(passages):
            shown = tuple(passage.history.prompt()), tuple(passage.history.prefix)
            passage.history.prefix = []
            groups.setdefault(shown, []).append(row)
        results: dict[int, DecodingResult] = {}
        settings = self.settings
        for (prompt, prefix), rows in groups.items():
            codes = [languages[row] for row in rows]
            names = [passages[row].seek for row in rows]
            some = audio if len(rows) == len(passages) else audio[rows]
            found = settings.fallback(self.decoder, some, codes, settings.task, prompt, settings.search, names, prefix)
            results |= dict(zip(rows, found, strict=True))
        return [results[row] for row in range(len(passages))]

    def _found(self, passage: Passage, result: DecodingResult) -> _Found:
        begin, size = passage.seek, passage.size
        if self.settings.fallback.silent(result):
            return _Found([], begin + size, True)
        found = cut(result.tokens, size, self.tokenizer.timestamp_begin)
        ends = list(accumulate(len(piece.tokens) for piece in found.pieces))
        segments = [
            self._segment(piece, begin, result, result.logprobs[end - len(piece.tokens) : end])
            for piece, end in zip(found.pieces, ends, strict=True)
        ]
        return _Found(segments, begin + found.advance, found.ends_in_silence)

    def _segment(self, piece: Piece, begin: int, result: DecodingResult, logprobs: tuple[float, ...]) -> Segment:
        return Segment(
            start=seconds_at(begin + piece.start),
            end=seconds_at(begin + piece.end),
            text=self.tokenizer.decode(token for token in piece.tokens if token < self.tokenizer.eot),
            tokens=tuple(piece.tokens),
            avg_logprob=result.avg_logprob,
            no_speech_prob=result.no_speech_prob,
            compression_ratio=result.compression_ratio,
            temperature=result.temperature,
            language=result.language if self.settings.multilingual else None,
            logprobs=logprobs,
        )

    def _aligned(
        self, passages: Sequence[Passage], audio: Tensor, found: Sequence[_Found], languages: list[str]
    ) -> list[list[Timing]]:
        texts = [
            [token for segment in window.segments for token in segment.tokens if token < self.tokenizer.eot]
            for window in found
        ]
        sizes = [passage.size for passage in passages]
        return self.aligner(self.decoder.heard(audio), texts, sizes, languages, self.settings.task)

    def _timed(self, passage: Passage, found: _Found, timings: list[Timing]) -> _Found:
        """With words; the next window begins where the last one ends, or beyond what was invented."""
        if not found.segments:
            return found
        settings, history, begin = self.settings, passage.history, passage.seek
        stop = begin + passage.size
        span = Span(seconds_at(begin), seconds_at(stop), seconds_at(begin + passage.longest))
        segments = timed_segments(
            found.segments, timings, span.start, history.spoken_until, self.tokenizer.eot, settings.punctuation
        )
        seek, end, threshold = found.seek, spoken_end(segments), settings.hallucination_silence_threshold
        if passage.to_last_word and not found.ends_in_silence and end is not None and end > span.start:
            rest_is_short = threshold is not None and span.full - end <= threshold
            seek = stop if rest_is_short else frame_at(end)
        if threshold is not None:
            until = seconds_at(passage.until)
            segments, again = keep_heard(segments, span, history.spoken_until, until, threshold)
            seek = seek if again is None else frame_at(again)
            end = spoken_end(segments)
        history.spoken_until = history.spoken_until if end is None else end
        return found._replace(
            segments=segments, seek=max(seek, begin + 1)
        )  # rounded, a short word could end at `begin`
