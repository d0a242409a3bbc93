"""Captions of images: the usual names of their columns and keys, and how what was read becomes texts."""

from collections.abc import Sequence
from typing import Any

__all__ = ["CAPTIONS", "gathered", "texts"]

CAPTIONS = ("caption", "captions", "text", "txt", "sentence", "sentences", "title", "description", "alt_text")


def texts(said: Any) -> tuple[str, ...]:
    """The captions in a cell or a value of JSON: a text or a list of them; nothing where there is anything else.

    Flickr30k's and COCO's parquet files hold lists, some of them with ``{"raw": text}`` for each.
    """
    found = said if isinstance(said, list | tuple) else [said]
    found = [item.get("raw") if isinstance(item, dict) else item for item in found]
    return tuple(item.strip() for item in found if isinstance(item, str) and item.strip())


def gathered(said: Sequence[Any]) -> list[tuple[str, ...]] | None:
    """The captions of each image of a set; None if no image has any."""
    found = [texts(item) for item in said]
    return found if any(found) else None
