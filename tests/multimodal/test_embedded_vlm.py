"""The vision-language model in assets/: small, offline, and as good as it says on pictures that it never saw."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data.idx import read_idx
from multimodal.tasks.questions import with_article
from multimodal.vlm.chat import VisionLanguage
from sensorium.cli import main
from sensorium.demo.words import LABELS
from sensorium.sights import EMBEDDED

SUBSET = Path(__file__).parents[2] / "assets" / "fashion_mnist_subset"
FOOTWEAR = {"sandal", "sneaker", "ankle boot"}


@pytest.fixture(scope="module")
def model() -> VisionLanguage:
    return VisionLanguage.load(EMBEDDED)


@pytest.fixture(scope="module")
def shown() -> tuple[list[Image.Image], list[str]]:
    images, truth = (read_idx(SUBSET / f"t10k-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1"))
    return [Image.fromarray(image) for image in images[:200]], [LABELS[label] for label in truth[:200]]


def asked(model: VisionLanguage, groups: list[list[Image.Image]], question: str) -> list[str]:
    ask = {"type": "text", "text": question}
    shown = [[{"type": "image", "image": image} for image in group] for group in groups]
    chats = [[{"role": "user", "content": [*images, ask]}] for images in shown]
    return [said.text for begin in range(0, len(chats), 50) for said in model.chats(chats[begin : begin + 50])]


def share(answers: list[str], wanted: list[str]) -> float:
    return float(np.mean([answer == right for answer, right in zip(answers, wanted, strict=True)]))


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) <= 8_000_000


def test_it_says_what_a_picture_shows(model: VisionLanguage, shown: tuple[list[Image.Image], list[str]]) -> None:
    images, names = shown
    found = model.caption(images, "what is it?")
    assert share([said.text for said in found], [with_article(name) for name in names]) >= 0.8
    wanted = ["yes" if name in FOOTWEAR else "no" for name in names[:100]]
    assert share(asked(model, [[image] for image in images[:100]], "is it footwear?"), wanted) >= 0.95


def test_it_knows_how_many_and_which(model: VisionLanguage, shown: tuple[list[Image.Image], list[str]]) -> None:
    images, names = shown
    pairs = [list(pair) for pair in pairwise(images[:61])]
    triples = [images[at : at + 3] for at in range(30)]
    for number, groups in (("one", [[image] for image in images[:30]]), ("two", pairs[:30]), ("three", triples)):
        assert share(asked(model, groups, "how many items?"), [number] * 30) >= 0.95
    for word, place in (("first", 0), ("second", 1)):
        wanted = [with_article(names[at + place]) for at in range(60)]
        assert share(asked(model, pairs, f"what is the {word} item?"), wanted) >= 0.7


def test_a_person_asks_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    shown: tuple[list[Image.Image], list[str]],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)  # wherever it is called
    for number, image in enumerate(shown[0][:3]):
        image.save(f"{number}.png")
    assert main(["chat", "--image", "0.png", "what is it?"]) == 0
    assert capsys.readouterr().out == f"{with_article(shown[1][0])}\n"
    assert main(["chat", "-i", "0.png", "-i", "1.png", "-i", "2.png", "how many items?"]) == 0
    assert capsys.readouterr().out == "three\n"
    assert main(["caption", "0.png"]) == 0
    assert capsys.readouterr().out == f"0.png: {with_article(shown[1][0])}\n"
