"""Features of pictures put where a text has its image tokens; whether they fit is checked first."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["check_counts", "expanded", "place"]


def expanded(text: str, token: str, words: Sequence[str]) -> str:
    """Return a text with its image tokens replaced, the first by the first of ``words``, and so on.

    Args:
        text: as a chat template wrote it.
        token: that stands for a picture, ``<image>``.
        words: for each picture what it is replaced by: the token once for each of its features, and what is around.

    Raises:
        InputError: if there are more or fewer of them than pictures.
    """
    parts = text.split(token)
    found = len(parts) - 1
    if found > len(words):
        raise InputError(
            f"the text has {found} {token} but there {_are(len(words), 'image')}: number {len(words) + 1}, after "
            f"{_tail(parts[len(words)])}, has none; give its image, or take {token} out of the text"
        )
    if found < len(words):
        raise InputError(
            f"there {_are(len(words), 'image')} but the text has {found} {token}: image {found + 1} has no place "
            f"in it; write {token} where it belongs, or leave the image out"
        )
    return "".join(part + word for part, word in zip(parts, [*words, ""], strict=True))


def check_counts(ids: Tensor, token: int, sizes: Sequence[int]) -> None:
    """See that image tokens and features are as many.

    Args:
        ids: (B, L) integers.
        token: that stands for one feature.
        sizes: how many features each picture has, in reading order over the rows.

    Raises:
        InputError: which picture has too many, too few or no tokens, and where.
    """
    flat = (ids == token).flatten().tolist()
    total, wanted = sum(flat), sum(sizes)
    if total == wanted:
        return
    runs = _runs(flat, ids.shape[1])
    images = _count(len(sizes), "image")
    if len(runs) == len(sizes):  # each has its place, so it can be said whose is wrong
        number = next(number for number, (run, size) in enumerate(zip(runs, sizes, strict=True)) if run[1] != size)
        (at, held), size = runs[number], sizes[number]
        raise InputError(
            f"image {number + 1} of {len(sizes)} has {size} features but {held} image tokens, from {_where(at, ids)}: "
            "give it one token for each feature"
        )
    if total > wanted:
        at = [number for number, flag in enumerate(flat) if flag][wanted]
        raise InputError(
            f"the text has {total} image tokens but there are {wanted} features, of {images}: the tokens from "
            f"{_where(at, ids)} on have no image; give it, or take them out of the text"
        )
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    number = next(number for number, end in enumerate(ends) if end > total)
    left = max(0, total - ends[number] + sizes[number])
    raise InputError(
        f"there are {wanted} features, of {images}, but {total} image tokens in the text: for the {sizes[number]} of "
        f"image {number + 1} there are {left or 'none'}; give it one token for each feature, or leave it out"
    )


def place(x: Tensor, ids: Tensor, token: int, features: Sequence[Tensor] | Tensor) -> Tensor:
    """Return embeddings with those of the image tokens replaced by features.

    Args:
        x: (B, L, D), of the tokens.
        ids: (B, L).
        token: that stands for one feature.
        features: of all pictures in reading order over the rows: (N_i, D) of each, or (images, N, D).

    Raises:
        InputError: as :func:`check_counts`.
    """
    parts = list(features)
    check_counts(ids, token, [len(part) for part in parts])
    if not parts:
        return x
    mask = (ids == token)[..., None].expand_as(x)
    return x.masked_scatter(mask, torch.cat(parts).to(x.dtype))


def _runs(flags: Sequence[bool], length: int) -> list[tuple[int, int]]:
    """Begin and size of each run of True; rows of ``length`` part them."""
    found: list[tuple[int, int]] = []
    for at, flag in enumerate(flags):
        if not flag:
            continue
        if found and sum(found[-1]) == at and at % length:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((at, 1))
    return found


def _where(at: int, ids: Tensor) -> str:
    row, place = divmod(at, ids.shape[1])
    return f"position {place}" + (f" of row {row + 1}" if len(ids) > 1 else "")


def _are(count: int, what: str) -> str:
    return f"{'is' if count == 1 else 'are'} {_count(count, what)}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _tail(text: str) -> str:
    words = " ".join(text.split())
    return repr(words if len(words) <= 24 else "..." + words[-24:]) if words else "its beginning"
