"""Classes from names."""

from collections.abc import Sequence

import numpy as np

from core.errors import InputError

__all__ = ["numbered"]

_MOST = 1 << 20  # classes


def numbered(names: Sequence[str], known: Sequence[str], where: str) -> tuple[np.ndarray, list[str]]:
    """Labels (N,) int64 for the classes `names`, and the names of all classes, by what training knows.

    Where all that training knows are whole numbers, these are the labels; else the classes are its names in
    alphabetical order.

    Args:
        names: Class of each image.
        known: Classes that occur in training.
        where: What to name in errors.

    Raises:
        InputError: If there is a class that training doesn't have.
    """
    if known and all(name.isascii() and name.isdigit() and int(name) < _MOST for name in known):
        classes = [str(number) for number in range(max(map(int, known)) + 1)]
    else:
        classes = sorted(set(known))
    places = {name: place for place, name in enumerate(classes)}
    unknown = sorted({name for name in names if _plain(name) not in places and name not in places})
    if unknown:
        raise InputError(f"{where}: has classes that training doesn't have: {', '.join(unknown[:5])}")
    return np.array([places.get(name, places.get(_plain(name), 0)) for name in names], np.int64), classes


def _plain(name: str) -> str:
    """A number without leading zeros."""
    return str(int(name)) if name.isascii() and name.isdigit() else name
