"""What is said in a recording, as a data set tells it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from core.errors import InputError

__all__ = ["FIELDS", "Spoken", "Utterance", "utterance"]

_TEXTS = ("text", "transcript", "transcription", "sentence", "normalized_text", "raw_text", "txt")
_LANGUAGES = ("language", "lang", "locale")
_PROMPTS = ("prompt", "previous_text", "context")
_SECONDS = ("duration", "seconds")
FIELDS = (*_TEXTS, *_LANGUAGES, *_PROMPTS, *_SECONDS, "segments", "task")  # those that `utterance` knows


class Spoken(NamedTuple):
    """A stretch of speech within a recording."""

    start: float  # seconds
    end: float
    text: str


@dataclass(frozen=True)
class Utterance:
    """What is known of a recording's words; whatever isn't known is None or empty.

    Attributes:
        text: All that is said, or its English translation.
        segments: The same in stretches, with their times.
        language: Of the speech: a code or an English name.
        task: ``"transcribe"``, or ``"translate"`` where the text is a translation.
        prompt: What was said before.
        seconds: How long the recording is.
        offset: The second at which it begins in its file, if it is a piece of that; None: it is all of it. The times
            of `segments` count from here.
    """

    text: str | None = None
    segments: tuple[Spoken, ...] = ()
    language: str | None = None
    task: str = "transcribe"
    prompt: str | None = None
    seconds: float | None = None
    offset: float | None = None


def utterance(said: Mapping[str, Any], where: str, text: str | None = None) -> Utterance:
    """What a row of a manifest, a table or a ``.json`` member tells, by the usual names of its fields.

    ``text``, ``language``, ``task``, ``prompt``, ``duration`` and ``offset`` (seconds), and ``segments``: a list of
    ``{"start":, "end":, "text":}``, perhaps as JSON in a cell.

    Args:
        said: The fields; those of other names say nothing.
        where: What to call the row in errors.
        text: Name of the field of the text, where it isn't a usual one.

    Raises:
        InputError: If a field is not what it should be.
    """
    segments = _segments(said.get("segments"), where)
    words = _field(said, (text,) if text else _TEXTS)
    task = str(said.get("task") or "transcribe")
    if task not in ("transcribe", "translate"):
        raise InputError(f"{where}: the task is {task!r}, expected transcribe or translate")
    if words is None and segments:
        words = " ".join(segment.text.strip() for segment in segments)
    seconds, offset = _field(said, _SECONDS), _field(said, ("offset",))
    language = _field(said, _LANGUAGES)
    return Utterance(
        text=None if words is None else words.strip(),
        segments=segments,
        language=language or None,
        task=task,
        prompt=_field(said, _PROMPTS) or None,
        seconds=None if seconds in (None, "") else _number(seconds, f"{where}: the duration"),
        offset=None if offset in (None, "") else _number(offset, f"{where}: the offset", zero=True),
    )


def _field(said: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    found = next((said[name] for name in names if said.get(name) is not None), None)
    return None if found is None else str(found)


def _segments(said: Any, where: str) -> tuple[Spoken, ...]:
    if said in (None, "", []):
        return ()
    try:
        listed = json.loads(said) if isinstance(said, str) else said
        found = tuple(Spoken(float(item["start"]), float(item["end"]), str(item["text"])) for item in listed)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{where}: segments must be a list of {{"start":, "end":, "text":}} ({error})') from error
    times = [time for segment in found for time in segment[:2]]
    if not all(math.isfinite(time) and time >= 0 for time in times) or times != sorted(times):
        raise InputError(f"{where}: the segments' times must be seconds that never go back")
    return found


def _number(text: Any, what: str, zero: bool = False) -> float:
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise InputError(f"{what} is {text!r}, expected seconds {'of 0 or more' if zero else 'above 0'}")
    return number
