"""When a text ends: at other tokens than one, or at a piece of text."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["StopTexts", "StopWhen"]


class StopWhen:
    """A rule for every search: behind tokens that end a text nothing may come but the token `stop`.

    Args:
        stop: that the search ends at; it adds a log-probability of 0.
        ended: says of the tokens of one row, without the prompt, whether they are the end.
    """

    def __init__(self, stop: int, ended: Callable[[list[int]], bool]) -> None:
        self.stop, self.ended = stop, ended

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        if tokens.shape[1] == 0:
            return
        for row, text in enumerate(tokens.tolist()):
            if self.ended(text):
                logits[row] = -torch.inf
                logits[row, self.stop] = 0.0


class StopTexts:
    """Pieces of text that end a text and are no part of it.

    Raises:
        ValueError: if one is empty.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        if not all(texts):
            raise ValueError("a stop string must not be empty: every text would end at once")
        self.texts = tuple(texts)

    @property
    def bytes(self) -> int:
        """Of the longest one: so many tokens at the end of a text can have made it."""
        return max((len(text.encode()) for text in self.texts), default=0)

    def within(self, text: str) -> bool:
        """Whether one of them is in `text`."""
        return any(stop in text for stop in self.texts)

    def cut(self, text: str) -> str:
        """What comes before the first of them; all, if none is there."""
        places = [place for stop in self.texts if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text

    def settled(self, text: str) -> str:
        """What of a growing text, with none of them, can be shown: not what may become the beginning of one."""
        held = max(
            (size for stop in self.texts for size in range(1, len(stop)) if text.endswith(stop[:size])),
            default=0,
        )
        return text[: len(text) - held]
