"""``sensorium classify`` with a tiny model: what it prints, what it refuses, what it passes over."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.images import read_image
from core.weights import Bundle, save_bundle
from multimodal.tokenizer import ClipTokenizer
from multimodal.two_towers import TwoTowers, TwoTowersConfig
from multimodal.weights import load_two_towers
from multimodal.zero_shot import ZeroShotClassifier
from sensorium.cli import main
from vision.preprocess import preparation

SAID = {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bicubic", "mean": [0.4] * 3, "std": [0.3] * 3}
CONFIG = {
    "image": {"image": [32, 32], "patch": 8, "dim": 24, "depth": 1, "heads": 3, "classes": 0},
    "text": {"context": 12, "dim": 24, "depth": 1, "heads": 3, "embed": 16},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle `model`, three pictures in `photos`, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    from core.weights import from_plain

    save_bundle("model", TwoTowers(from_plain(TwoTowersConfig, CONFIG)), Bundle("multimodal.TwoTowers", CONFIG, SAID))
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        array = random.integers(0, 255, (20 + 9 * number, 60 - 5 * number, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "text.jpg").write_text("no picture")
    return tmp_path


def run(*arguments: str) -> int:
    return main(["classify", *arguments, "-m", "model", "-p", "float32"])


def test_json_says_what_the_classifier_does(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("photos", "--labels", "a cat, a dog,a bird", "-f", "json", "-b", "2") == 0
    found = json.loads(capsys.readouterr().out)
    model, _ = load_two_towers("model")
    classifier = ZeroShotClassifier(model, ClipTokenizer(12), ["a cat", "a dog", "a bird"], precision="float32")
    prepare = preparation((32, 32), 3, SAID)
    assert [item["path"] for item in found] == [f"photos/{number}.png" for number in range(3)]
    for item in found:
        expected = classifier(prepare(read_image(Path(item["path"])))[None])[0]
        assert item["labels"] == pytest.approx(dict(zip(classifier.labels, expected.tolist(), strict=True)), abs=1e-5)


def test_csv_and_table(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "labels.txt").write_text("a cat\n\na dog\n")
    assert run("photos/*.png", "--labels-file", "labels.txt", "-f", "csv", "-k", "1") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 3
    assert {row["label"] for row in rows} <= {"a cat", "a dog"}
    assert run("photos/0.png", "--labels", "a cat,a dog", "-t", "plain") == 0
    assert "%" in capsys.readouterr().out


def test_good_pictures_are_answered_beside_bad_ones(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("photos/0.png", "text.jpg", "photos/1.png", "--labels", "a,b", "-f", "json") == 1
    out, err = capsys.readouterr()
    assert [item["path"] for item in json.loads(out)] == ["photos/0.png", "photos/1.png"]
    assert err.count("error:") == 1
    assert "text.jpg" in err
    assert run("text.jpg", "--labels", "a,b", "-f", "json") == 2


def test_a_label_that_is_too_long_is_named(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("photos/0.png", "--labels", "a cat," + "very " * 20 + "long") == 0
    err = capsys.readouterr().err
    assert err.count("warning:") == 1
    assert "longer than the 12 tokens" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["photos"], "--labels 'cat,dog'"),
        (["photos", "--labels", ""], "no labels, or one of them is empty"),
        (["photos", "--labels", "cat,cat"], "'cat' comes twice"),
        (["photos", "--labels", "cat", "--dataset", "imagenet"], "by one of"),
        (["photos", "--labels", "cat", "-t", "a photo"], "no place for the label"),
        (["https://example.org/cat.jpg", "--labels", "cat"], "is a URL"),
        (["nothing.jpg", "--labels", "cat"], "nothing.jpg"),
        (["photos", "--labels-file", "absent.txt"], "absent.txt"),
    ],
)
def test_bad_input(folder: Path, capsys: pytest.CaptureFixture, arguments: list[str], said: str) -> None:
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert err.count("error:") == 1
    assert said in err


def test_unknown_models_are_answered_with_near_ones(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["classify", "photos", "--labels", "cat", "-m", "ViT-B-32/laion2b"]) == 2
    assert "ViT-B-32/laion2b_s34b_b79k" in capsys.readouterr().err
