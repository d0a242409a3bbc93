"""Rows of tokens that are made up, to see what a decoder can do with its context: copying, and finding a needle."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.order import Key, keys
from core.data.sets import ItemSet, Split
from core.errors import InputError
from core.train.data import ItemData
from multimodal.chat_rows import IGNORED

__all__ = ["Copy", "Made", "MadeData", "Needle"]

_SEEDS = {"train": 21, "val": 22, "test": 23, "predict": 23}


class Made(ABC):
    """Makes rows.

    Args:
        vocab: Tokens; the first few are signs of the task.
        length: Of a row.
    """

    def __init__(self, vocab: int, length: int) -> None:
        self.vocab, self.length = vocab, length

    @abstractmethod
    def __call__(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A row (length + 1,) and, for each of its tokens, whether it is to be predicted."""


class Copy(Made):
    """Random tokens, then a text and once more: from its second token on, the repetition can be known (induction heads,
    arXiv:2209.11895). Texts are of many lengths, so that it can't be known from how far back it is; no token comes
    twice before the repetition where the vocabulary allows it.

    Args:
        vocab, length: See :class:`Made`; token 0 stands before the text and its repetition.
    """

    def __init__(self, vocab: int = 512, length: int = 64) -> None:
        super().__init__(vocab, length)
        if vocab < 2 or length < 7:
            raise InputError(f"vocab {vocab} must be at least 2, length {length} at least 7")

    def __call__(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        most = (self.length - 1) // 2
        size = int(random.integers(max(2, most // 4), most + 1))
        drawn = self.length - 1 - size
        first = 1 + random.choice(self.vocab - 1, drawn, replace=drawn > self.vocab - 1)
        text = first[drawn - size :]
        row = np.concatenate([first[: drawn - size], [0], text, [0], text])
        wanted = np.zeros(len(row), bool)
        wanted[-(size - 1) :] = True
        return row, wanted


class Needle(Made):
    """Keys and their values somewhere in random text; at the end keys again, and their values are to be said.

    Args:
        vocab, length: See :class:`Made`; token 0 stands before a key, 1 before a question, and neither is in the text.
        value: Tokens of a value.
        needles: How many there are, each with a key of its own.
        questions: About how many of them is asked.
    """

    def __init__(
        self, vocab: int = 128, length: int = 64, value: int = 1, needles: int = 1, questions: int = 1
    ) -> None:
        super().__init__(vocab, length)
        self.value, self.needles, self.questions = value, needles, questions
        if not 1 <= questions <= needles or value < 1:
            raise InputError(f"value {value} must be at least 1, and questions {questions} from 1 to needles {needles}")
        if vocab < 3 + needles or length < (needles + questions) * (value + 2):
            raise InputError(
                f"vocab {vocab} and length {length} are too small for {needles} needles with values of {value}"
            )

    def __call__(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        size = self.value + 2
        straw = self.length + 1 - (self.needles + self.questions) * size
        names = 2 + random.choice(self.vocab - 2, self.needles, replace=False)
        values = 2 + random.integers(self.vocab - 2, size=(self.needles, self.value))
        # where the needles are among the straw, in order
        places = np.sort(random.integers(straw + 1, size=self.needles))
        hay = 2 + random.integers(self.vocab - 2, size=straw)
        parts: list[Any] = []
        at = 0
        for place, name, value in zip(places, names, values, strict=True):
            parts += [hay[at:place], [0, name], value]
            at = place
        parts.append(hay[at:])
        for asked in random.permutation(self.needles)[: self.questions]:
            parts += [[1, names[asked]], values[asked]]
        row = np.concatenate(parts).astype(np.int64)
        wanted = np.zeros(len(row), bool)
        wanted[-self.questions * size :].reshape(self.questions, size)[:, 2:] = True
        return row, wanted


class _Rows(ItemSet[list[Any]]):
    """Numbered rows, each made when it is read."""

    noun = "rows"
    in_memory = True
    classes: list[str] = []  # noqa: RUF012
    labels = None

    def __init__(self, make: Made, count: int, seed: int) -> None:
        self.make, self.count, self.seed = make, count, seed

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int]) -> list[Any]:
        return [self.make(np.random.default_rng(int(key))) for key in keys(self.seed, 0, np.asarray(indices))]

    def name(self, index: int) -> str:
        return f"row {index}"


class _Examples:
    """Batches: ``ids``, ``targets`` and ``answers``, (B, length) int64; each row is an answer."""

    def __init__(self, rows: ItemSet[list[Any]]) -> None:
        self.rows = rows

    def __getitems__(self, wanted: list[Key]) -> dict[str, Any]:
        found, _ = self.rows.take([index for _, index in wanted])
        rows, asked = (torch.from_numpy(np.stack(side)) for side in zip(*found, strict=True))
        targets = torch.where(asked, rows, IGNORED)[:, 1:]
        answers = torch.arange(len(rows))[:, None].expand_as(targets)
        return {"ids": rows[:, :-1], "targets": targets, "answers": answers.masked_fill(targets == IGNORED, -1)}


class MadeData(ItemData):
    """A data set that is made up; what a row is follows from its number.

    Args:
        make: Makes rows.
        count: Rows of an epoch of training.
        held: Rows of validation, and of test.
        batch_size, items: See :class:`core.train.data.ItemData`.
    """

    answers = True

    def __init__(
        self, make: Made, count: int = 20_000, held: int = 1_000, batch_size: int = 128, root: str = ".", **items: Any
    ) -> None:
        super().__init__(root, batch_size, **items)
        if min(count, held) < 1:
            raise InputError(f"count {count} and held {held} must be at least 1")
        self.make, self.count, self.held = make, count, held
        self.root = Path(root)

    @property
    def vocab(self) -> int:
        """Tokens that there are."""
        return self.make.vocab

    def _read(self, split: Split) -> _Rows:
        return _Rows(self.make, self.count if split == "train" else self.held, _SEEDS[split])

    def _examples(self, items: ItemSet[Any], training: bool) -> _Examples:
        return _Examples(items)
