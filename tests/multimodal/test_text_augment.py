"""Texts varied for training: as often as asked, the same again, and never in evaluation."""

from pathlib import Path

import numpy as np
import pytest

from core.data.order import keys
from core.data.sets import Images, ImageSet
from core.errors import InputError
from multimodal.captions import Captioner
from multimodal.tasks.data import ImageTextData, PairExamples
from multimodal.text_augment import Varied
from vision.augment import Preprocess

ROOT = Path(__file__).parents[2]
WORDS = [f"word{number}" for number in range(20)]


class Fixed(Captioner):
    def __call__(self, images: Images, numbers: object, source: ImageSet, keys: np.ndarray) -> list[str]:
        return [" ".join(WORDS)] * len(keys)


def texts(varied: Varied, epoch: int = 0, count: int = 1000) -> list[list[str]]:
    made = varied([], [], None, keys(0, epoch, np.arange(count)))  # type: ignore[arg-type]
    return [text.split() for text in made]


def test_words_are_left_out_as_often_as_asked() -> None:
    found = texts(Varied(Fixed(), leave_out=0.2, swap=0.0))
    share = 1 - np.mean([len(words) for words in found]) / len(WORDS)
    assert share == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 20_000) ** 0.5)  # four standard errors
    assert all(words == sorted(words, key=WORDS.index) for words in found)
    each = [np.mean([word not in words for words in found]) for word in WORDS]
    assert max(abs(value - 0.2) for value in each) < 0.06
    assert texts(Varied(Fixed(), leave_out=0.999, swap=0.0)) != [[]] * 1000
    assert all(texts(Varied(Fixed(), leave_out=0.999, swap=0.0)))


def test_words_change_places() -> None:
    found = texts(Varied(Fixed(), leave_out=0.0, swap=0.1))
    moved = [sum(word != same for word, same in zip(words, WORDS, strict=True)) for words in found]
    assert all(sorted(words) == sorted(WORDS) for words in found)
    assert 3 < np.mean(moved) <= 4  # two swaps, seldom of a word with itself
    assert texts(Varied(Fixed(), leave_out=0.0, swap=0.0)) == [WORDS] * 1000


def test_every_epoch_has_its_own_and_a_run_its_again() -> None:
    varied = Varied(Fixed())
    assert texts(varied) == texts(varied)
    assert texts(varied, epoch=1) != texts(varied)
    with pytest.raises(InputError, match="leave_out"):
        Varied(leave_out=1.0)


def test_only_training_varies() -> None:
    shared: dict = {"root": str(ROOT / "assets" / "fashion_mnist_subset"), "captions": Fixed(), "batch_size": 8}
    data = ImageTextData(preprocess=Preprocess(28, mean=[0.3], std=[0.3]), vary=Varied(Fixed()), **shared)
    data.setup("fit")
    loaders = (data.train_dataloader(), data.val_dataloader())
    training, evaluation = (loader._loader.dataset.examples for loader in loaders)  # type: ignore[union-attr, attr-defined]
    assert isinstance(training, PairExamples)
    assert isinstance(evaluation, PairExamples)
    assert isinstance(training.captions, Varied)
    assert isinstance(evaluation.captions, Fixed)
