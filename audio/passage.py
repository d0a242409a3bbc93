"""A part of a recording that is heard window by window, and what is remembered from one window to the next.

Source of the rules: openai/whisper ``whisper/transcribe.py``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from audio.mel import WINDOW_FRAMES
from audio.transcript import Segment

__all__ = ["History", "Passage", "Recorded"]

DOUBTFUL = 0.5  # what was drawn at a higher temperature is not shown to the model: it might go on like that

Frames = Callable[[int, int], Tensor]  # first frame and count -> a window for the encoder (mels, 3000)


@dataclass
class Recorded:
    """What is known of a recording.

    Attributes:
        language: code; None as long as it has to be detected.
        in_turn: a passage depends on those before it.
    """

    language: str | None
    in_turn: bool


class History:
    """What was said so far, of which the model is shown the end.

    Args:
        initial: tokens that are shown before the first window.
        carry: they are shown before every window.
        keep: the model is shown what it wrote.
        room: tokens that it can be shown.
        prefix: how the text of the first window begins.
    """

    def __init__(self, initial: Sequence[int], carry: bool, keep: bool, room: int, prefix: Sequence[int] = ()) -> None:
        self.initial = list(initial)
        self.carry, self.keep, self.room = carry, keep, room
        self.prefix = list(prefix)
        self.said = list(initial)
        self.shown_from = 0  # of what was said, the first that is shown
        self.spoken_until = 0.0  # where the last word ended, seconds

    def prompt(self) -> list[int]:
        """The tokens to be shown before the next window."""
        if not self.carry:
            return self.said[self.shown_from :]
        room = max(self.room - len(self.initial), 0)
        since = self.said[max(len(self.initial), self.shown_from) :]
        return self.initial + (since[-room:] if room else [])

    def add(self, segments: Sequence[Segment], temperature: float) -> None:
        """What was found in a window, at some temperature."""
        self.said += [token for segment in segments for token in segment.tokens]
        if not self.keep or temperature > DOUBTFUL:
            self.shown_from = len(self.said)


@dataclass
class Passage:
    """A part of a recording: each of its windows begins where the last spoken segment of the one before ended.

    Attributes:
        recorded: of which it is a part.
        frames: gives its log-mel frames, counted from the start of the recording, and what comes after them.
        seek: the frame at which the next window begins.
        end: the frame at which it ends.
        until: the frame at which the recording ends, as far as this passage knows.
        history: what was said before, shared with other passages if these depend on one another.
        to_last_word: with word times, a window without an end of its last segment is heard again from its last word on.
        longest: frames of a window; the model's, which are 3000 but for those that were trained on short recordings.
        segments: found so far.
    """

    recorded: Recorded
    frames: Frames
    seek: int
    end: int
    until: int
    history: History
    to_last_word: bool = True
    longest: int = WINDOW_FRAMES
    segments: list[Segment] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether all of it was heard."""
        return self.seek >= self.end

    @property
    def size(self) -> int:
        """Frames of the next window."""
        return min(self.longest, self.end - self.seek)

    def window(self) -> Tensor:
        """What the encoder hears next: (mels, longest)."""
        return self.frames(self.seek, self.size)
