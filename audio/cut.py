"""Cut what was heard in a window into segments, at the timestamps that the model wrote.

Source: openai/whisper ``whisper/transcribe.py``.
"""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Cut", "Piece", "cut"]


class Piece(NamedTuple):
    """A segment within its window, in log-mel frames."""

    start: int
    end: int
    tokens: list[int]


class Cut(NamedTuple):
    """The segments of a window."""

    pieces: list[Piece]
    advance: int  # frames by which the next window begins later
    ends_in_silence: bool  # the model closed the last segment and began no other


def cut(tokens: Sequence[int], size: int, timestamp_begin: int, frames_per_step: int = 2) -> Cut:
    """Cut the tokens of a window of `size` frames where the end of one segment meets the start of the next.

    A last segment that has a start but no end is left out, and the next window begins where it would: there it is heard
    whole. `timestamp_begin` is the token of 0 s; each one after it stands for `frames_per_step` frames more.
    """

    def frame(token: int) -> int:
        return (token - timestamp_begin) * frames_per_step

    stamped = [token >= timestamp_begin for token in tokens]
    ends_in_silence = stamped[-2:] == [False, True]
    cuts = [i for i in range(1, len(tokens)) if stamped[i - 1] and stamped[i]]
    if not cuts:
        ends = [end for end in map(frame, tokens) if end > 0]
        return Cut([Piece(0, ends[-1] if ends else size, list(tokens))], size, ends_in_silence)
    if ends_in_silence:
        cuts.append(len(tokens))
    parts = [list(tokens[a:b]) for a, b in zip([0, *cuts], cuts, strict=False)]
    pieces = [Piece(frame(part[0]), frame(part[-1]), part) for part in parts]
    return Cut(pieces, size if ends_in_silence else pieces[-1].end, ends_in_silence)
