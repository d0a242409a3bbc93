"""Where somebody speaks: spans of speech, and windows of at most 30 s that are cut in the pauses between them.

Everything here is a stream: a recording of any length is read once, and little more than two windows of it are held.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from audio.mel import HOP, SAMPLE_RATE, WINDOW_SECONDS
from audio.vad import FRAME, VoiceStream
from core.errors import InputError

__all__ = ["Span", "SpanFinder", "SpeechWindow", "VoiceActivity", "WindowFinder", "speech_windows"]

# The network takes a word that a recording begins with for noise, unless silence comes before it; but then also noise
# for a word. Recordings that are hardly longer than a word are given the benefit of the doubt.
SHORT = SAMPLE_RATE  # samples
LEAD_IN = 16 * FRAME  # samples of silence

SMOOTHED = 5  # frames: how long a moment is that speech without a pause is cut in


@dataclass(frozen=True)
class VoiceActivity:
    """What counts as speech, and where it is cut into windows.

    Times are in seconds.

    Attributes:
        threshold: speech begins in a frame that is more likely speech than this.
        silence_threshold: it ends where frames are less likely speech than this. None: `threshold` - 0.15.
        min_speech: shorter sounds are none.
        min_silence: shorter pauses are part of the speech around them.
        padding: what is heard before and after speech.
        max_pause: a longer pause is left out, and what comes after it begins a window.
        max_window: the longest window, at most 30.
    """

    threshold: float = 0.5
    silence_threshold: float | None = None
    min_speech: float = 0.1
    min_silence: float = 0.1
    padding: float = 0.4
    max_pause: float = 3.0
    max_window: float = WINDOW_SECONDS

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold {self.threshold} of speech: expected a probability between 0 and 1")
        if min(self.min_speech, self.min_silence, self.padding) < 0 or self.max_pause < 2 * self.padding:
            raise InputError(
                "times of voice activity: expected 0 or more, and a max_pause of at least twice the padding"
            )
        if not 4 * self.padding + 1 <= self.max_window <= WINDOW_SECONDS:
            raise InputError(
                f"windows of {self.max_window} s with a padding of {self.padding} s: expected at most "
                f"{WINDOW_SECONDS} s, and at least 1 s more than four times the padding"
            )

    @property
    def silence(self) -> float:
        """The threshold at which speech ends."""
        if self.silence_threshold is not None:
            return self.silence_threshold
        return max(self.threshold - 0.15, 0.01)

    @property
    def longest(self) -> int:
        """Samples of speech in a window, without its padding."""
        return round((self.max_window - 2 * self.padding) * SAMPLE_RATE) // FRAME * FRAME


class Span(NamedTuple):
    """A stretch of a recording, in samples at 16 kHz."""

    start: int
    end: int


class SpeechWindow(NamedTuple):
    """A window in which somebody speaks."""

    start: int  # samples at 16 kHz from the start of the recording, whole frames of the spectrogram
    audio: Tensor  # (samples,)


class SpanFinder:
    """Finds spans of speech, without padding, in probabilities that come a few at a time.

    Source: snakers4/silero-vad ``utils_vad.py``, ``get_speech_timestamps``, but for speech without a pause that fills
    more than a window: it is cut where it is least likely speech, in the window's second half.
    """

    def __init__(self, rule: VoiceActivity = VoiceActivity()) -> None:
        self.rule = rule
        self.count = 0  # frames so far
        self.begun: int | None = None  # the frame in which speech began that has not ended
        self.quiet: int | None = None  # the frame in which it may have ended
        self.heard: list[float] = []  # the probabilities since it began

    def __call__(self, probabilities: Sequence[float], last: bool = False) -> Iterator[Span]:
        """The spans that end within these frames of 512 samples; with `last`, also the one that ends with them."""
        for likely in probabilities:
            yield from self._next(likely)
            self.count += 1
        if last and self.begun is not None and self._long_enough(self.count):
            yield Span(self.begun * FRAME, self.count * FRAME)

    def _next(self, likely: float) -> Iterator[Span]:
        rule, frame = self.rule, self.count
        if likely >= rule.threshold:
            self.quiet = None
            if self.begun is None:
                self.begun, self.heard = frame, []
        if self.begun is None:
            return
        self.heard.append(likely)
        if likely < rule.silence:
            self.quiet = frame if self.quiet is None else self.quiet
            if (frame - self.quiet) * FRAME >= rule.min_silence * SAMPLE_RATE:
                if self._long_enough(self.quiet):
                    yield Span(self.begun * FRAME, self.quiet * FRAME)
                self.begun = self.quiet = None
        elif len(self.heard) * FRAME > rule.longest:
            cut = self.begun + _quietest(self.heard)
            yield Span(self.begun * FRAME, cut * FRAME)
            self.begun, self.heard = cut, self.heard[cut - self.begun :]

    def _long_enough(self, end: int) -> bool:
        assert self.begun is not None
        return (end - self.begun) * FRAME > self.rule.min_speech * SAMPLE_RATE


class WindowFinder:
    """Finds the windows in which somebody speaks, in a recording that comes in blocks of any size.

    Spans that follow one another closely share a window. Where one is full, it ends with the longest pause of its
    second half.
    """

    def __init__(self, rule: VoiceActivity = VoiceActivity()) -> None:
        self.rule = rule
        self.padding = round(rule.padding * SAMPLE_RATE)
        self.voice = VoiceStream()
        self.spans = SpanFinder(rule)
        self.waiting: list[Span] = []  # for the rest of their window
        self.done = 0  # the end of the last window
        self.start = 0  # the first sample that is held
        self.held = torch.zeros(0)

    def __call__(self, block: Tensor, last: bool = False) -> Iterator[SpeechWindow]:
        """The windows that are complete with `block` (samples,); with `last`, all that are left."""
        self.held = torch.cat([self.held, block])
        if not self.spans.count:
            block = self.held
            if len(block) < SHORT:
                if not last:
                    return
                self.voice(torch.zeros(LEAD_IN))
        for span in self.spans(self.voice(block, last).tolist(), last):
            while self.waiting and self._apart(span):
                yield self._window(self._fitting(span), span.start)
            self.waiting.append(span)
        if self.waiting and (last or self._next_start() - self.waiting[-1].end > self.rule.max_pause * SAMPLE_RATE):
            yield self._window(len(self.waiting), None)
        self._forget()

    def _next_start(self) -> int:
        """The first sample that may belong to a span which is not known yet."""
        return (self.spans.count if self.spans.begun is None else self.spans.begun) * FRAME

    def _apart(self, span: Span) -> bool:
        """Whether `span` has to wait for another window."""
        pause = span.start - self.waiting[-1].end > self.rule.max_pause * SAMPLE_RATE
        return pause or span.end - self.waiting[0].start > self.rule.longest

    def _fitting(self, span: Span) -> int:
        """How many of the waiting spans make a window when `span` comes after them."""
        starts = [later.start for later in self.waiting[1:]] + [span.start]
        pauses = [start - before.end for before, start in zip(self.waiting, starts, strict=True)]
        if pauses[-1] > self.rule.max_pause * SAMPLE_RATE:
            return len(pauses)
        half = self.waiting[0].start + self.rule.longest // 2
        late = [number for number, before in enumerate(self.waiting) if before.end >= half] or [len(pauses) - 1]
        return 1 + max(late, key=lambda number: (pauses[number], number))

    def _window(self, count: int, after: int | None) -> SpeechWindow:
        """The first `count` of the waiting spans as a window, with padding on either side."""
        spans, self.waiting = self.waiting[:count], self.waiting[count:]
        following = self.waiting[0].start if self.waiting else after
        start = max(self.done, spans[0].start - self.padding) // HOP * HOP
        end = min(spans[-1].end + self.padding, self.start + len(self.held))
        if following is not None:
            end = min(end, (spans[-1].end + following) // 2)
        self.done = -(-end // HOP) * HOP
        return SpeechWindow(start, self.held[start - self.start : self.done - self.start].clone())

    def _forget(self) -> None:
        """Drop what no window can need any more."""
        first = self.waiting[0].start if self.waiting else self._next_start()
        keep = max(self.done, first - self.padding, self.start) // HOP * HOP
        self.held = self.held[keep - self.start :]
        self.start = keep


def speech_windows(blocks: Iterable[Tensor], rule: VoiceActivity = VoiceActivity()) -> Iterator[SpeechWindow]:
    """The windows of a recording that comes in blocks (samples,) of any size, in order; none where nobody speaks."""
    find = WindowFinder(rule)
    for block in blocks:
        yield from find(block)
    yield from find(torch.zeros(0), last=True)


def _quietest(heard: Sequence[float]) -> int:
    """The middle of the run of frames, in the second half, that is least likely speech."""
    half = len(heard) // 2
    later = torch.tensor(heard[half:])
    runs = later.unfold(0, min(SMOOTHED, len(later)), 1).mean(dim=1)
    return half + int(runs.argmin()) + min(SMOOTHED, len(later)) // 2
