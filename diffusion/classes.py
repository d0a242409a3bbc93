"""Which class is meant by a name or a number."""

import difflib
import re
from collections.abc import Sequence

from core.errors import InputError

__all__ = ["class_index"]

SHOWN = 5  # names in a message


def class_index(asked: str | int, names: Sequence[str], classes: int) -> int:
    """Return the index of a class.

    Args:
        asked: a name, in any case; where a class has several with commas or strokes between ("tench, Tinca tinca"),
            one of them; or its index.
        names: of the classes in order; none if the model doesn't say them.
        classes: how many there are.

    Raises:
        InputError: if there is no such class, with the nearest names, or several have the name.
    """
    text = str(asked).strip()
    if text.isdecimal():
        if int(text) < classes:
            return int(text)
        raise InputError(f"no class {text}: there are {classes}, 0 to {classes - 1}")
    if not names:
        raise InputError(
            f"no class {text!r}: this model has no names of classes, give a number from 0 to {classes - 1}"
        )
    known: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        for word in dict.fromkeys([_plain(name), *map(_plain, re.split("[,/]", name))]):
            known.setdefault(word, []).append(index)
    found = known.get(_plain(text), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"class {text!r} is {' and '.join(map(str, found))}: give the number that you mean")
    raise InputError(f"no class {text!r}: {_nearest(text, known, names)}")


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _nearest(text: str, known: dict[str, list[int]], names: Sequence[str]) -> str:
    asked = _plain(text)
    inside = [word for word in known if asked in word.split() or any(part == word for part in asked.split())]
    near = list(dict.fromkeys([*inside, *difflib.get_close_matches(asked, known, SHOWN)]))
    close = list(dict.fromkeys(names[known[word][0]] for word in near))[:SHOWN]
    if close:
        return f"the nearest are {', '.join(map(repr, close))}"
    more = ", ..." if len(names) > SHOWN else ""
    return f"expected {', '.join(map(repr, names[:SHOWN]))}{more}, or a number from 0 to {len(names) - 1}"
