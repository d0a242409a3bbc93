"""Sentences that a label is put into before it is read, and the names of ImageNet's classes."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import InputError

__all__ = ["IMAGENET", "PHOTO", "SETS", "imagenet_labels", "templates"]

PHOTO = ("a photo of a {}.",)
"""What is used if nothing else is said."""

SETS = ("plain", "photo", "simple", "openai")
IMAGENET = "imagenet"


def templates(name: str | Sequence[str]) -> tuple[str, ...]:
    """Return the sentences of a set, or those that are given, each with ``{}`` where the label goes.

    Args:
        name: ``"plain"`` (the label alone), ``"photo"``, ``"simple"`` (7) or ``"openai"`` (the 80 of CLIP, section
            3.1.4 of arXiv:2103.00020), a single sentence, or several.

    Raises:
        InputError: if it is no set, or a sentence has no place for the label.
    """
    if isinstance(name, str):
        if name in SETS:
            fixed = {"plain": ("{}",), "photo": PHOTO}
            return fixed[name] if name in fixed else tuple(_data()["templates"][name])
        name = (name,)
    wrong = [sentence for sentence in name if sentence.count("{}") != 1]
    if wrong or not name:
        raise InputError(
            f"no place for the label in {wrong[0] if wrong else ''!r}: expected one of {', '.join(SETS)}, or sentences "
            "with {} in them"
        )
    return tuple(name)


def imagenet_labels() -> tuple[str, ...]:
    """Return the names of ImageNet's 1000 classes in their order, as CLIP and open_clip call them."""
    return tuple(_data()["classes"])


@cache
def _data() -> dict[str, Any]:
    path = Path(__file__).parent / "assets" / "imagenet.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
