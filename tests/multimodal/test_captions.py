"""Texts of images: the data's own, and sentences about labels and pixels."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from core.data.idx import Idx
from core.data.order import keys
from core.data.sets import ImageSet, hold_out
from core.data.skip import Skipping
from core.errors import InputError
from multimodal.captions import Given, Written, measured

ROOT = Path(__file__).parents[2]
FILE = ROOT / "assets" / "fashion_mnist_captions" / "captions.yaml"
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


@pytest.fixture(scope="module")
def images() -> ImageSet:
    found = Idx(classes=CLASSES).open(ROOT / "assets" / "fashion_mnist_subset", "train")
    assert found is not None
    return found


def test_sentences_are_about_the_label(images: ImageSet) -> None:
    written = Written(str(FILE))
    numbers = list(range(400))
    texts = written(images.read(numbers), numbers, images, keys(0, 0, np.array(numbers)))
    assert images.labels is not None
    for number, text in zip(numbers, texts, strict=True):
        words = written.phrases.names[CLASSES[int(images.labels[number])]]
        assert any(word in text for word in words), text
    assert len(set(texts)) > 150
    assert texts == written(images.read(numbers), numbers, images, keys(0, 0, np.array(numbers)))
    assert texts != written(images.read(numbers), numbers, images, keys(0, 1, np.array(numbers)))
    assert "an ankle boot" in " ".join(texts)
    assert " a ankle" not in " ".join(texts)
    assert set(texts) <= set(written.everything())


def test_what_is_measured_is_true() -> None:
    dark, bright, narrow = (np.zeros((28, 28), np.uint8) for _ in range(3))
    dark[4:24, :] = 60
    bright[4:24, :] = 220
    narrow[:, 10:18] = 140
    assert (measured(dark, False), measured(bright, False), measured(narrow, False)) == ("dark", "bright", "")
    assert (measured(dark, True), measured(narrow, True)) == ("wide", "narrow")
    assert measured(np.zeros((28, 28), np.uint8), True) == ""


def test_captions_of_the_data_follow_the_image(images: ImageSet) -> None:
    images.captions = [(f"{number} a", f"{number} b") for number in range(len(images))]
    try:
        part = Skipping(hold_out(images, 0.1)[1])
        numbers = list(range(100))
        texts = Given()(part.read(numbers), numbers, part, keys(0, 0, np.array(numbers)))
        assert part.captions is not None
        assert all(text in part.captions[number] for number, text in zip(numbers, texts, strict=True))
        assert 30 < Counter(text[-1] for text in texts)["a"] < 70
    finally:
        images.captions = None


def test_what_cannot_be(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the data has no captions"):
        Given()(images.read([0]), [0], images, keys(0, 0, np.array([0])))
    with pytest.raises(InputError, match="no such file"):
        Written(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("sentences: [a photo]\nmeasured: 0\nnames: {Bag: [bag]}\n")
    with pytest.raises(InputError, match="expected sentences with"):
        Written(str(tmp_path / "bad.yaml"))
    (tmp_path / "few.yaml").write_text('sentences: ["a {}"]\nmeasured: 0\nnames: {Bag: [bag]}\n')
    with pytest.raises(InputError, match="nothing is written about the label 'Ankle boot'"):
        Written(str(tmp_path / "few.yaml"))(images.read([0]), [0], images, keys(0, 0, np.array([0])))
