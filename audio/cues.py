"""Lay a transcript out as subtitles: what is shown from when to when, and where its lines break.

Source of the rules: openai/whisper ``whisper/utils.py``, ``SubtitlesWriter``.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from audio.transcript import Segment, Transcript, Word
from core.errors import InputError

__all__ = ["Cue", "Layout", "Line", "cues", "has_words", "milliseconds", "subtitles"]

LONG_PAUSE = 3.0  # seconds between the starts of two words: lines that are filled up regardless of segments end there

Line = list[Word]  # the first without space around it, so that their texts join to the line


@dataclass(frozen=True)
class Layout:
    """How subtitles look. All of it needs word times; segments without any are shown whole.

    Attributes:
        highlight_words: underline each word while it is spoken.
        max_line_width: characters in a line; a longer word has a line of its own. None: a segment is a line.
        max_line_count: lines shown at once. With `max_line_width`, lines are filled up regardless of segments.
        max_words_per_line: words shown at once; of no effect with both of the above.

    Raises:
        InputError: when a number is below 1.
    """

    highlight_words: bool = False
    max_line_width: int | None = None
    max_line_count: int | None = None
    max_words_per_line: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_line_width", "max_line_count", "max_words_per_line"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"{name.replace('_', ' ')} {number}: expected at least 1")

    @property
    def needs_words(self) -> bool:
        """Whether anything here needs word times."""
        return self != Layout()

    @property
    def fills_lines(self) -> bool:
        """Whether lines run on from one segment into the next."""
        return self.max_line_width is not None and self.max_line_count is not None


class Cue(NamedTuple):
    """What is shown for a while."""

    start: int  # milliseconds from the start of the recording
    end: int
    text: str


def cues(transcript: Transcript, layout: Layout, escape: Callable[[str], str] = str) -> Iterator[Cue]:
    """The transcript's subtitles in order, marked up if `layout` says so; `escape` is applied to what was spoken.

    An arrow in the text would read as a line of times: ``-->`` becomes ``->``.
    """
    if not has_words(transcript):
        for segment in transcript.segments:
            text = escape(_without_arrows(segment.text.strip()))
            yield Cue(milliseconds(segment.start), milliseconds(segment.end), text)
        return
    for lines in subtitles(transcript.segments, layout):
        shown = _highlighted(lines, escape) if layout.highlight_words else [_plain(lines, escape)]
        for cue in shown:
            yield cue._replace(text=_without_arrows(cue.text))


def subtitles(segments: Sequence[Segment], layout: Layout) -> Iterator[list[Line]]:
    """What is shown at once, as lines of words.

    A segment with text but without words among others that have some counts as one word.
    """
    width = layout.max_line_width or 1000
    lines: list[Line] = []
    length = 0  # of the last line, characters
    last: float | None = None  # when the word before started
    for chunk in _chunks(segments, layout.max_words_per_line or 1000):
        for number, word in enumerate(chunk):
            pause = layout.fills_lines and last is not None and word.start - last > LONG_PAUSE
            parted = number == 0 and bool(lines) and not layout.fills_lines
            last = word.start
            if length > 0 and length + len(word.text) <= width and not pause and not parted:
                lines[-1].append(word)
                length += len(word.text)
                continue
            full = layout.max_line_count is not None and len(lines) >= layout.max_line_count
            if parted or (lines and (pause or full)):
                yield lines
                lines = []
            word = replace(word, text=word.text.strip())
            if lines and length == 0:  # an empty word doesn't make a line
                lines[-1].append(word)
            else:
                lines.append([word])
            length = len(word.text)
    if lines:
        yield lines


def has_words(transcript: Transcript) -> bool:
    """Whether the transcript has word times."""
    return any(segment.words for segment in transcript.segments)


def milliseconds(seconds: float) -> int:
    """The nearest."""
    return round(seconds * 1000)


def _chunks(segments: Sequence[Segment], size: int) -> Iterator[Sequence[Word]]:
    """Each segment's words, `size` at a time."""
    for segment in segments:
        whole = (Word(segment.start, segment.end, segment.text, 1.0),) if segment.text.strip() else ()
        words = segment.words or whole
        for first in range(0, len(words), size):
            yield words[first : first + size]


def _plain(lines: list[Line], escape: Callable[[str], str]) -> Cue:
    text = "\n".join("".join(escape(word.text) for word in line) for line in lines)
    return Cue(milliseconds(lines[0][0].start), milliseconds(lines[-1][-1].end), text)


def _highlighted(lines: list[Line], escape: Callable[[str], str]) -> Iterator[Cue]:
    """The same lines again and again: with each word underlined, and with none where nobody speaks."""
    before = milliseconds(lines[0][0].start)
    for spoken in chain.from_iterable(lines):
        start, end = milliseconds(spoken.start), milliseconds(spoken.end)
        if start != before:
            yield Cue(before, start, _plain(lines, escape).text)
        marked = [
            "".join(_underlined(escape(word.text)) if word is spoken else escape(word.text) for word in line)
            for line in lines
        ]
        yield Cue(start, end, "\n".join(marked))
        before = end


def _underlined(text: str) -> str:
    return re.sub(r"^(\s*)(.*)$", r"\1<u>\2</u>", text)


def _without_arrows(text: str) -> str:
    return text.replace("-->", "->")
