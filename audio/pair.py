"""A model and its draft, made fast together."""

from audio.draft import Draft
from audio.fast import Precision, fast_whisper
from audio.whisper import Whisper

__all__ = ["fast_pair"]


def fast_pair(model: Whisper, small: Whisper, precision: Precision = "auto") -> tuple[Whisper, Draft]:
    """Both as :func:`audio.fast.fast_whisper` makes them, with one encoder if theirs are equal.

    Raises:
        InputError: if `small` can't draft for `model`; for a precision that there isn't, or that the device can't do.
    """
    draft = Draft(small)
    draft.check(model)
    one = draft.hears_like(model)
    model, small = fast_whisper(model, precision), fast_whisper(small, precision)
    if one:
        small.encoder = model.encoder
    return model, Draft(small)
