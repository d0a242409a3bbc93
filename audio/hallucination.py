"""Skip silence in which a model may have invented text.

Source: openai/whisper ``whisper/transcribe.py``, ``hallucination_silence_threshold``.
"""

from collections.abc import Sequence
from typing import NamedTuple

from audio.transcript import Segment, Word
from audio.words import Punctuation

__all__ = ["Span", "improbable", "keep_heard"]

IMPROBABLE = 0.15  # a word's probability
SHORT, LONG = 0.133, 2.0  # seconds of a word that are hard to believe
JUDGED = 8  # words of a segment that are looked at
TOO_MANY = 3.0  # words that are hard to believe
EDGE = 2.0  # seconds at the ends of a window, where text is more often invented
_SIGNS = Punctuation().prepended + Punctuation().appended


class Span(NamedTuple):
    """Where a window lies, in seconds from the start of the recording."""

    start: float
    end: float  # of what it holds, at the latest 30 s after its start
    full: float  # 30 s after its start


def keep_heard(
    segments: Sequence[Segment], span: Span, spoken_until: float, duration: float, threshold: float
) -> tuple[list[Segment], float | None]:
    """The segments of a window that were likely spoken, and where to go on listening, if that isn't after them.

    Args:
        segments: with words.
        span: of the window.
        spoken_until: where the last word before the window ended.
        duration: of the recording, seconds.
        threshold: seconds of silence beside doubtful text that are skipped together with it.
    """
    worded = [segment for segment in segments if segment.words]
    if worded and improbable(worded[0]) and worded[0].start - span.start > threshold:
        return [], worded[0].start
    for number, segment in enumerate(segments):
        if not segment.words:
            continue
        if improbable(segment):
            following = next((later for later in segments[number + 1 :] if later.words), None)
            next_start = span.end if following is None else following.words[0].start
            silent_before = (
                segment.start - spoken_until > threshold
                or segment.start < threshold
                or segment.start - span.start < EDGE
            )
            silent_after = (
                next_start - segment.end > threshold
                or (following is not None and improbable(following))
                or span.full - segment.end < EDGE
            )
            if silent_before and silent_after:
                rest_is_silent = duration - segment.end < threshold
                return list(segments[:number]), duration if rest_is_silent else max(span.start + 1, segment.start)
        spoken_until = segment.end
    return list(segments), None


def improbable(segment: Segment) -> bool:
    """Whether a segment's first words are too unlikely, too short or too long for speech."""
    words = [word for word in segment.words if word.text not in _SIGNS][:JUDGED]
    doubt = sum(map(_doubt, words))
    return bool(segment.words) and (doubt >= TOO_MANY or doubt + 0.01 >= len(words))


def _doubt(word: Word) -> float:
    duration = word.end - word.start
    return (word.probability < IMPROBABLE) + 15 * max(SHORT - duration, 0.0) + max(duration - LONG, 0.0)
