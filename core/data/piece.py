"""A piece of a recording, read without what lies before and after it."""

import torch
from torch import Tensor

from core.data.audio import LONGEST, Recording, Source
from core.errors import InputError

__all__ = ["read_piece"]

_AROUND = 1  # whole seconds before a piece that are read with it: far more than the filter of the resampling reaches
_ROUNDED = 0.1  # seconds that may lack at a piece's end: manifests round


def read_piece(
    source: Source, offset: float, seconds: float | None = None, rate: int = 16_000, longest: float = LONGEST
) -> Tensor:
    """The part of :func:`core.data.audio.read_audio` from the second `offset` on: (samples,), float32 at `rate` Hz.

    Args:
        source, rate, longest: See :class:`core.data.audio.Recording`.
        offset: Where it begins.
        seconds: How long it is; None: to the recording's end.

    Raises:
        InputError: If the recording can't be read, or ends earlier.
    """
    recording = Recording(source, rate, longest)
    start = max(0, int(offset) - _AROUND)
    first = round(offset * rate) - start * rate
    end = None if seconds is None else first + round(seconds * rate)
    held: list[Tensor] = []
    count = 0
    for block in recording.blocks(start):
        held.append(block)
        count += len(block)
        if end is not None and count >= end:
            break
    needed = first + 1 if end is None else end - round(_ROUNDED * rate)
    if count <= first or count < needed:
        raise InputError(
            f"{recording.name} ends after {start + count / rate:.2f} s: there is no piece of "
            f"{'any length' if seconds is None else f'{seconds:g} s'} at {offset:g} s"
        )
    return torch.cat(held)[first:end]
