"""Name patterns: ``blocks.{i}.norm.{leaf}``."""

import re
from collections.abc import Mapping

__all__ = ["Pattern"]

_PLACE = re.compile(r"\{(\w+)\}")


class Pattern:
    """A name with placeholders.

    ``{i}`` (one letter) is a number, ``{leaf}`` (a word) one part of a name, such as weight or bias, and ``{path}`` any
    number of parts.

    Attributes:
        text: the pattern as it was given.
        places: names of its placeholders.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.places = set(_PLACE.findall(text))
        regex, seen = "", set()
        for i, piece in enumerate(_PLACE.split(text)):
            if i % 2 == 0:
                regex += re.escape(piece)
            elif piece in seen:
                regex += f"(?P={piece})"
            else:
                seen.add(piece)
                kind = ".+" if piece == "path" else r"\d+" if len(piece) == 1 else "[^./]+"
                regex += f"(?P<{piece}>{kind})"
        self._match = re.compile(regex).fullmatch

    def match(self, name: str) -> dict[str, str] | None:
        """Return what the placeholders stand for in a name, or None if it does not fit."""
        found = self._match(name)
        return None if found is None else found.groupdict()

    def fill(self, places: Mapping[str, str]) -> str:
        """Return the name in which the placeholders stand for these."""
        return _PLACE.sub(lambda place: places[place[1]], self.text)
