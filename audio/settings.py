"""How a recording is heard."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from audio.decode import Search
from audio.fallback import Fallback
from audio.silence import Silence
from audio.speech import VoiceActivity
from audio.tokenizer import Task
from audio.words import Punctuation
from audio.writing import Writing
from core.errors import InputError

__all__ = ["OPENAI", "Settings"]


@dataclass(frozen=True)
class Settings:
    """How a recording is heard.

    Attributes:
        language: code or English name; None detects it in the first window.
        multilingual: detect it in each window; `language` is of no effect.
        task: whether to write what is said, or its English translation.
        vad: where speech is looked for: windows are cut in its pauses, and nothing else is heard. None: windows follow
            one another, each starting where the last spoken segment ended.
        silence: how much is encoded of the silence after windows of speech; ``Silence(one_of=1)``: all. Windows that
            follow one another don't end in silence, but in zeros of the spectrogram, and are encoded whole.
        batch: windows that are heard at once, where they don't depend on one another: what is heard is the same.
        condition_on_previous_text: show the model what it wrote so far; each window depends on the one before.
        initial_prompt: text that the model is shown before the first window, and before each window of speech that
            doesn't depend on others: names, spelling, style.
        carry_initial_prompt: show it before every window.
        writing: what the text may be.
        search: how the text of a window is looked for.
        fallback: what is decoded again.
        word_timestamps: find out when each word was spoken; segments start and end with their words.
        punctuation: which signs belong to the word after them, and which to the one before.
        hallucination_silence_threshold: seconds of silence beside text that is likely invented from which on both are
            skipped. None: none is. It needs word timestamps.
        clip_timestamps: seconds at which clips start and end, in turns: they are heard without looking for speech, the
            rest isn't. The last needs no end.

    Raises:
        InputError: when they don't fit together.
    """

    language: str | None = None
    task: Task = "transcribe"
    multilingual: bool = False
    vad: VoiceActivity | None = field(default_factory=VoiceActivity)
    silence: Silence = field(default_factory=Silence)
    batch: int = 8
    condition_on_previous_text: bool = False
    initial_prompt: str | None = None
    carry_initial_prompt: bool = False
    writing: Writing = field(default_factory=Writing)
    search: Search = field(default_factory=Search)
    fallback: Fallback = field(default_factory=Fallback)
    word_timestamps: bool = False
    punctuation: Punctuation = field(default_factory=Punctuation)
    hallucination_silence_threshold: float | None = None
    clip_timestamps: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"a batch of {self.batch} windows: expected at least 1")
        silence, times = self.hallucination_silence_threshold, list(self.clip_timestamps)
        if silence is not None and not (self.word_timestamps and silence > 0):
            raise InputError(f"a hallucination silence threshold of {silence} s: expected above 0, and word timestamps")
        for start, end in zip(times[::2], [*times[1::2], float("inf")], strict=False):
            if not 0 <= start <= end:
                raise InputError(f"clip from {start} s to {end} s: expected a start of 0 or more, and an end after it")

    @property
    def speech(self) -> VoiceActivity | None:
        """Where speech is looked for: not in clips that are asked for."""
        return None if self.clip_timestamps else self.vad

    def clips(self, frames: int) -> list[tuple[int, int]]:
        """First frame and end of each clip of a recording with so many log-mel frames, 100 a second."""
        if not self.clip_timestamps:
            return [(0, frames)]
        points = [min(round(100 * time), frames) for time in self.clip_timestamps]
        return list(zip(points[::2], [*points[1::2], frames], strict=False))


OPENAI = Settings(vad=None, condition_on_previous_text=True)
"""What openai-whisper does: everything is heard, in windows of which each depends on the one before."""
