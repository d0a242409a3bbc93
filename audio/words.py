"""Words of segments, made of the aligned words of a window: punctuation joins them, and durations are made plausible.

Source: openai/whisper ``whisper/timing.py``, ``merge_punctuations`` and ``add_word_timestamps``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from audio.align import Timing
from audio.transcript import Segment, Word

__all__ = ["Punctuation", "merge_punctuation", "spoken_end", "timed_segments"]

SENTENCE_ENDS = ".。!！?？"
LONGEST_MEDIAN = 0.7  # seconds: a typical word doesn't last longer, whatever the alignment says
PAUSE = 4  # median durations: where a word ends later than that after the one before, there was a pause
TRUST = 0.5  # seconds by which the first and last word may reach beyond the times that the model wrote itself


@dataclass(frozen=True)
class Punctuation:
    """Which signs are a part of the word after them, and which of the word before."""

    prepended: str = "\"'“¿([{-"
    appended: str = "\"'.。,，!！?？:：”)]}、"


def timed_segments(
    segments: Sequence[Segment],
    timings: Sequence[Timing],
    offset: float,
    spoken_until: float,
    eot: int,
    punctuation: Punctuation = Punctuation(),
) -> list[Segment]:
    """Give the segments of a window their words, and let them start and end with these.

    Args:
        segments: of the window, in order.
        timings: of the words of all their text, in order.
        offset: where the window begins, seconds from the start of the recording.
        spoken_until: where the last word before the window ended.
        eot: the end token: what is below it is text.
        punctuation: what joins with other words.
    """
    median = _median_duration(timings)
    words = merge_punctuation(_cut_at_sentence_ends(timings, 2 * median), punctuation)
    timed = []
    first = 0
    for segment in segments:
        left = sum(token < eot for token in segment.tokens)
        end = first
        while end < len(words) and left > 0:
            left -= len(words[end].tokens)
            end += 1
        placed = [_placed(word, offset) for word in words[first:end]]
        first = end
        if placed:
            segment = _fitted(segment, _cut_after_pause(placed, spoken_until, median), median)
            spoken_until = segment.end
        timed.append(segment)
    return timed


def spoken_end(segments: Sequence[Segment]) -> float | None:
    """Where the last word of segments ends; without words, the last segment; None without segments."""
    ends = [word.end for segment in segments for word in segment.words]
    return ends[-1] if ends else segments[-1].end if segments else None


def merge_punctuation(timings: Sequence[Timing], punctuation: Punctuation = Punctuation()) -> list[Timing]:
    """Join signs with the word that they belong to, which keeps its times and its probability."""
    backwards: list[Timing] = []
    for timing in reversed(timings):
        if backwards and timing.text.startswith(" ") and timing.text.strip() in punctuation.prepended:
            word = backwards[-1]
            backwards[-1] = word._replace(text=timing.text + word.text, tokens=timing.tokens + word.tokens)
        else:
            backwards.append(timing)
    merged: list[Timing] = []
    for timing in reversed(backwards):
        if merged and not merged[-1].text.endswith(" ") and timing.text in punctuation.appended:
            word = merged[-1]
            merged[-1] = word._replace(text=word.text + timing.text, tokens=word.tokens + timing.tokens)
        else:
            merged.append(timing)
    return merged


def _median_duration(timings: Sequence[Timing]) -> float:
    durations = [timing.end - timing.start for timing in timings if timing.end != timing.start]
    return min(LONGEST_MEDIAN, float(np.median(durations))) if durations else 0.0


def _cut_at_sentence_ends(timings: Sequence[Timing], longest: float) -> list[Timing]:
    """Shorten a long full stop at its end, and the long word after one at its start: there was a pause."""
    cut = list(timings[:1])
    for before, timing in pairwise(timings):
        if longest > 0 and timing.end - timing.start > longest:
            if timing.text in SENTENCE_ENDS:
                timing = timing._replace(end=timing.start + longest)
            elif before.text in SENTENCE_ENDS:
                timing = timing._replace(start=timing.end - longest)
        cut.append(timing)
    return cut


def _placed(timing: Timing, offset: float) -> Word:
    return Word(round(offset + timing.start, 2), round(offset + timing.end, 2), timing.text, timing.probability)


def _cut_after_pause(words: list[Word], spoken_until: float, median: float) -> list[Word]:
    """Shorten the first two words where they are long because of a pause before them."""
    longest = 2 * median
    first, *others = words
    second = others[0] if others else None
    long = first.end - first.start > longest or (second is not None and second.end - first.start > 2 * longest)
    if first.end - spoken_until <= PAUSE * median or not long:
        return words
    if second is not None and second.end - second.start > longest:
        border = max(second.end / 2, second.end - longest)
        first, others[0] = replace(first, end=border), replace(second, start=border)
    return [replace(first, start=max(0.0, first.end - longest)), *others]


def _fitted(segment: Segment, words: list[Word], median: float) -> Segment:
    """The segment with its words and their times, save where it is likelier right itself."""
    start, end = segment.start, segment.end
    first = words[0]
    if start < first.end and start - TRUST > first.start:
        words[0] = replace(first, start=max(0.0, min(first.end - median, start)))
    else:
        start = first.start
    last = words[-1]
    if end > last.start and end + TRUST < last.end:
        words[-1] = replace(last, end=max(last.start + median, end))
    else:
        end = last.end
    return replace(segment, start=start, end=end, words=tuple(words))
