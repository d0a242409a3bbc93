"""How a recording is heard."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from audio.decode import Search
from audio.fallback import Fallback
from audio.tokenizer import Task
from audio.words import Punctuation
from core.errors import InputError

__all__ = ["Settings"]


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
        word_timestamps: find out when each word was spoken; segments start and end with their words.
        punctuation: which signs belong to the word after them, and which to the one before.
        hallucination_silence_threshold: seconds of silence beside text that is likely invented from which on both are
            skipped. None: none is. It needs word timestamps.
        clip_timestamps: seconds at which clips start and end, in turns: the rest is not heard. The last needs no end.

    Raises:
        InputError: when they don't fit together.
    """

    language: str | None = None
    task: Task = "transcribe"
    condition_on_previous_text: bool = True
    initial_prompt: str | None = None
    carry_initial_prompt: bool = False
    search: Search = field(default_factory=Search)
    fallback: Fallback = field(default_factory=Fallback)
    word_timestamps: bool = False
    punctuation: Punctuation = field(default_factory=Punctuation)
    hallucination_silence_threshold: float | None = None
    clip_timestamps: Sequence[float] = ()

    def __post_init__(self) -> None:
        silence, times = self.hallucination_silence_threshold, list(self.clip_timestamps)
        if silence is not None and not (self.word_timestamps and silence > 0):
            raise InputError(
                f"a hallucination silence threshold of {silence} s: expected above 0, and word timestamps"
            )
        for start, end in zip(times[::2], [*times[1::2], float("inf")], strict=False):
            if not 0 <= start <= end:
                raise InputError(f"clip from {start} s to {end} s: expected a start of 0 or more, and an end after it")

    def clips(self, frames: int) -> list[tuple[int, int]]:
        """First frame and end of each clip of a recording with so many log-mel frames, 100 a second."""
        if not self.clip_timestamps:
            return [(0, frames)]
        points = [min(round(100 * time), frames) for time in self.clip_timestamps]
        return list(zip(points[::2], [*points[1::2], frames], strict=False))
