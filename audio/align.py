"""Word timestamps: where in the audio each word was heard."""

from dataclasses import dataclass

__all__ = ["Word"]


@dataclass(frozen=True)
class Word:
    """A word within a segment, with the punctuation that clings to it."""

    start: float  # seconds from the start of the recording
    end: float
    text: str  # as the model wrote it: most begin with a space
    probability: float  # mean over its tokens
