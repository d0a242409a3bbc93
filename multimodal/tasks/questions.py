"""Questions with answers about labelled images, made from templates: one to a few images a chat."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.data.chats import ChatFormat, Told
from core.data.order import keys
from core.data.sets import ImageFormat, ImageSet, ItemSet, Split, hold_out
from core.errors import InputError

__all__ = ["AskedImages", "Questions", "with_article"]

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_SEEDS = {"train": 11, "val": 12, "test": 13, "predict": 13}
_COMBINATIONS = 14  # seed of what is held out


class _Shown(NamedTuple):
    """What a chat shows: the classes of its images, their names, and classes by the name of their group."""

    labels: list[int]
    names: Sequence[str]
    groups: dict[str, list[int]]


Ask = Callable[[_Shown, np.random.Generator], tuple[str, str]]


def _what(shown: _Shown, random: np.random.Generator) -> tuple[str, str]:
    name = with_article(shown.names[shown.labels[0]])
    return _one(random, ("what is it?", "what is this?", "what do you see?", "what is in the picture?")), name


def _which(shown: _Shown, random: np.random.Generator) -> tuple[str, str]:
    place = int(random.integers(len(shown.labels)))
    asked = _one(random, ("what is the {} item?", "what is the {}?", "what is the {} one?"))
    return asked.format(PLACES[place]), with_article(shown.names[shown.labels[place]])


def _is_of_group(shown: _Shown, random: np.random.Generator) -> tuple[str, str]:
    group = _one(random, tuple(shown.groups))
    place = int(random.integers(len(shown.labels)))
    what = "it" if len(shown.labels) == 1 else f"the {PLACES[place]} item"
    return f"is {what} {group}?", _yes(shown.labels[place] in shown.groups[group])


def _is_it(shown: _Shown, random: np.random.Generator) -> tuple[str, str]:
    """Half of the answers are yes."""
    if random.random() < 0.5:
        asked = int(random.choice(shown.labels))
    else:
        asked = int(random.choice([label for label in range(len(shown.names)) if label not in shown.labels]))
    what = "is it {}?" if len(shown.labels) == 1 else _one(random, ("is there {}?", "do you see {}?"))
    return what.format(with_article(shown.names[asked])), _yes(asked in shown.labels)


def _count(shown: _Shown, random: np.random.Generator) -> tuple[str, str]:
    asked = _one(random, ("how many items?", "how many items are there?", "how many pictures are there?"))
    return asked, NUMBERS[len(shown.labels)]


def _count_group(shown: _Shown, random: np.random.Generator) -> tuple[str, str]:
    group = _one(random, tuple(shown.groups))
    count = sum(label in shown.groups[group] for label in shown.labels)
    return f"how many are {group}?", NUMBERS[count] if count else "none"


ONE: tuple[Ask, ...] = (_what, _what, _is_of_group, _is_it, _count)
SEVERAL: tuple[Ask, ...] = (_which, _which, _is_of_group, _is_it, _count, _count_group)


class AskedImages(ItemSet[list[Told]]):
    """Chats about images of a set; which images a chat shows and what is asked follows from its number.

    Args:
        images: The set.
        names: What its classes are called, in order.
        groups: Classes by what they are together, such as ``{"footwear": [5, 7, 9]}``.
        count: How many chats.
        most: Images of a chat, at most.
        turns: Questions of a chat.
        seed: Of the choice.
        held: Whether chats of several images show the combinations of classes that are held out, or the others.
    """

    noun = "chats"

    def __init__(
        self,
        images: ImageSet,
        names: Sequence[str],
        groups: dict[str, list[int]],
        count: int,
        most: int,
        turns: int,
        seed: int,
        held: bool,
    ) -> None:
        if images.labels is None:
            raise InputError("questions are asked about labelled images: these have no labels")
        self.images, self.names, self.groups = images, names, groups
        self.count, self.most, self.turns, self.seed, self.held = count, most, turns, seed, held
        self.classes, self.labels, self.in_memory = [], None, images.in_memory
        self._of = [np.flatnonzero(images.labels == label) for label in range(len(names))]
        self._known = np.array([label for label, found in enumerate(self._of) if len(found)])

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int]) -> list[Told]:
        return [self._chat(int(key)) for key in keys(self.seed, 0, np.asarray(indices))]

    def name(self, index: int) -> str:
        return f"question {index}"

    def _chat(self, key: int) -> Told:
        random = np.random.default_rng(key)
        labels = self._combination(1 + int(random.integers(self.most)), random)
        chosen = [int(random.choice(self._of[label])) for label in labels]
        pictures = list(self.images.read(chosen))
        shown = _Shown(labels, self.names, self.groups)
        messages: list[dict[str, Any]] = []
        for turn in range(self.turns):
            question, answer = _one(random, ONE if len(labels) == 1 else SEVERAL)(shown, random)
            question = question if random.random() < 0.8 else question.removesuffix("?")
            content: list[dict[str, Any]] = [{"type": "text", "text": question}]
            content = content if turn else [*({"type": "image"} for _ in labels), *content]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        return Told({"messages": messages}, pictures)

    def _combination(self, count: int, random: np.random.Generator) -> list[int]:
        while True:
            labels = [int(label) for label in random.choice(self._known, count)]
            if count == 1 or held_out(labels) == self.held:
                return labels


class Questions(ChatFormat):
    """Templated questions about a labelled image set: what it is, whether it is this or that, how many there are.

    Chats of validation and test ask one question each, about held-out images (the test set's, or a share of the
    training set's). Where they show several, these are combinations of classes that training never shows.

    Args:
        format: How the images lie on disk.
        names: What their classes are called, in order.
        groups: Numbers of classes by what these are together; it should read well after "is it ...?".
        count: Chats of an epoch.
        held: Chats of validation, and of test.
        most: Images of a chat, at most.
        turns: Questions of a training chat.
        share: Of the training images, that are held out where there is no validation set.
    """

    def __init__(
        self,
        format: ImageFormat,
        names: list[str],
        groups: dict[str, list[int]],
        count: int = 20_000,
        held: int = 2_000,
        most: int = 3,
        turns: int = 3,
        share: float = 0.05,
    ) -> None:
        if min(count, held, turns) < 1 or not 1 <= most < len(NUMBERS) or not 0 < share < 1 or not groups:
            raise InputError(
                f"count {count}, held {held} and turns {turns} must be at least 1, most {most} from 1 to 9, share "
                f"{share} in (0, 1), and there must be groups"
            )
        if any(not 0 <= label < len(names) for labels in groups.values() for label in labels):
            raise InputError(f"groups name a class that is not among the {len(names)}")
        self.format, self.names, self.groups = format, names, groups
        self.count, self.held, self.most, self.turns, self.share = count, held, most, turns, share

    def open(self, root: Path, split: Split) -> AskedImages | None:
        images = self.format.open(root, split)
        if split in ("train", "val") and self.format.open(root, "val") is None:
            whole = self.format.open(root, "train")
            images = None if whole is None else hold_out(whole, self.share)[split == "val"]
        if images is None:
            return None
        training = split == "train"
        count, turns = (self.count, self.turns) if training else (self.held, 1)
        seed = _SEEDS[split]
        return AskedImages(images, self.names, self.groups, count, self.most, turns, seed, not training)


def held_out(labels: Sequence[int]) -> bool:
    """Whether a combination of classes, in any order, is one of the tenth that training never shows."""
    code = 0
    for label in sorted(labels):
        code = code * 1009 + label + 1
    return int(keys(_COMBINATIONS, 0, np.array([code]))[0]) % 10 == 0


def with_article(name: str) -> str:
    """A name with its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _one(random: np.random.Generator, of: Sequence[Any]) -> Any:
    return of[int(random.integers(len(of)))]


def _yes(true: bool) -> str:
    return "yes" if true else "no"
