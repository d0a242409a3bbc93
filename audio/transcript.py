"""What was heard in a recording: segments, and the words in them."""

from dataclasses import dataclass

__all__ = ["Segment", "Transcript", "Word"]


@dataclass(frozen=True)
class Word:
    """A word within a segment, with the punctuation that clings to it."""

    start: float  # seconds from the start of the recording
    end: float
    text: str  # as the model wrote it: most begin with a space
    probability: float  # mean over its tokens


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
    language: str | None = None  # when it was detected in each window
    logprobs: tuple[float, ...] = ()  # of each of the tokens, natural logarithms


@dataclass(frozen=True)
class Transcript:
    """All that was said in a recording."""

    segments: tuple[Segment, ...]
    language: str | None  # None where it was to be detected, and nobody spoke
    duration: float  # of the recording, seconds

    @property
    def text(self) -> str:
        """The segments' texts in one line."""
        return "".join(segment.text for segment in self.segments).strip()
