"""Texts that go with images in training: those that the data has, or sentences made of labels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from core.data.order import Keys, uniforms
from core.data.sets import Images, ImageSet
from core.errors import InputError

__all__ = ["Captioner", "Given", "Written"]


class Captioner(ABC):
    """From images to one text each; whatever is random in it follows from the keys."""

    @abstractmethod
    def __call__(self, images: Images, numbers: Sequence[int], source: ImageSet, keys: Keys) -> list[str]:
        """Return a text for each of B images.

        Args:
            images: as they were read.
            numbers: of the images in their set.
            source: the set, with its labels and captions.
            keys: (B,) uint64.
        """


class Given(Captioner):
    """One of the captions that the data has for an image, drawn anew in every epoch."""

    def __call__(self, images: Images, numbers: Sequence[int], source: ImageSet, keys: Keys) -> list[str]:
        """See :class:`Captioner`.

        Raises:
            InputError: If the data has no captions, or one image has none.
        """
        if source.captions is None:
            raise InputError("the data has no captions: expected a column, a .txt or a .json with them")
        draws = uniforms(keys, 1)[:, 0]
        choices = [source.captions[number] for number in numbers]
        if not all(choices):
            raise InputError(f"{source.name(numbers[choices.index(())])}: has no caption, and other images have")
        return [texts[int(draw * len(texts))] for texts, draw in zip(choices, draws, strict=True)]


@dataclass(frozen=True)
class Phrases:
    """What :class:`Written` makes sentences of: the contents of its file.

    Attributes:
        sentences: with ``{}`` where the thing goes.
        names: for each label, words for it.
        measured: share of the sentences that also say what can be measured: how bright and how wide the thing is.
    """

    sentences: tuple[str, ...]
    names: dict[str, tuple[str, ...]]
    measured: float


class Written(Captioner):
    """Sentences about labelled grey images: a word for the label, sometimes one for how bright or how wide it is.

    Bright and dark, wide and narrow are measured in the pixels, so they are true of the image.

    Args:
        path: of a YAML file with ``sentences``, ``names`` (label to words) and ``measured``.
    """

    def __init__(self, path: str) -> None:
        self.phrases = _phrases(Path(path))

    def __call__(self, images: Images, numbers: Sequence[int], source: ImageSet, keys: Keys) -> list[str]:
        """See :class:`Captioner`.

        Raises:
            InputError: If the images have no labels, or one of which nothing is written.
        """
        if source.labels is None:
            raise InputError("sentences are written about labels, and these images have none")
        said = self.phrases
        unknown = sorted(set(source.classes) - said.names.keys())
        if unknown:
            raise InputError(f"nothing is written about the label {unknown[0]!r}")
        texts = []
        for image, number, draws in zip(images, numbers, uniforms(keys, 4), strict=True):
            words = said.names[source.classes[int(source.labels[number])]]
            thing = words[int(draws[0] * len(words))]
            if draws[1] < said.measured:
                thing = f"{measured(np.asarray(image), draws[2] < 0.5)} {thing}".strip()
            sentence = said.sentences[int(draws[3] * len(said.sentences))]
            texts.append(_with_article(sentence, thing))
        return texts

    def everything(self) -> list[str]:
        """Return every sentence about every word, for a vocabulary."""
        adjectives = ("", "dark", "bright", "narrow", "wide")
        return [
            _with_article(sentence, f"{adjective} {word}".strip())
            for sentence in self.phrases.sentences
            for words in self.phrases.names.values()
            for word in words
            for adjective in adjectives
        ]


def measured(image: np.ndarray, shape: bool) -> str:
    """Return a word for how wide (``shape``) or how bright what a grey image (H, W) uint8 shows is; none in between."""
    grey = image if image.ndim == 2 else image.mean(2)
    there = grey > 32
    if not there.any():
        return "dark" if not shape else ""
    if not shape:
        light = float(grey[there].mean())
        return "bright" if light > 170 else "dark" if light < 110 else ""
    share = float(np.ptp(np.flatnonzero(there.any(0))) + 1) / image.shape[1]
    return "wide" if share > 0.95 else "narrow" if share < 0.6 else ""


def _with_article(sentence: str, thing: str) -> str:
    if thing[:1].lower() in "aeiou":
        sentence = sentence.replace(" a {}", " an {}").replace("A {}", "An {}")
        sentence = "an {}" + sentence[4:] if sentence.startswith("a {}") else sentence
    return sentence.replace("{}", thing)


def _phrases(path: Path) -> Phrases:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected YAML with sentences, names and measured")
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = Phrases(
            tuple(map(str, said["sentences"])),
            {str(label): tuple(map(str, words)) for label, words in said["names"].items()},
            float(said["measured"]),
        )
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: expected YAML with sentences, names (label to words) and measured") from error
    if not found.sentences or not all(found.names.values()) or any("{}" not in text for text in found.sentences):
        raise InputError(f"{path}: expected sentences with {{}} in them, and a word for each label")
    return found
