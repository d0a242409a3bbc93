"""``sensorium search`` over what ``sensorium embed`` wrote: by words, by a picture; the page; what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from core.data.images import read_image
from core.weights import Bundle, from_plain, save_bundle
from multimodal.search import Index
from multimodal.tokenizer import ClipTokenizer
from multimodal.two_towers import TwoTowers, TwoTowersConfig
from multimodal.weights import load_two_towers
from sensorium.cli import main
from vision.feature_files import read_features
from vision.preprocess import preparation

SAID = {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bicubic", "mean": [0.4] * 3, "std": [0.3] * 3}
CONFIG = {
    "image": {"image": [32, 32], "patch": 8, "dim": 24, "depth": 1, "heads": 3, "classes": 0},
    "text": {"context": 12, "dim": 24, "depth": 1, "heads": 3, "embed": 16},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle `model`, five pictures in `photos`, and their embeddings in `photos.parquet`."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_bundle("model", TwoTowers(from_plain(TwoTowersConfig, CONFIG)), Bundle("multimodal.TwoTowers", CONFIG, SAID))
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(5):
        array = random.integers(0, 255, (20 + 9 * number, 60 - 5 * number, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "photos" / f"{number}.png")
    assert main(["embed", "photos", "-m", "model", "-o", "photos.parquet", "-p", "float32"]) == 0
    return tmp_path


def test_by_words(folder: Path, capsys: pytest.CaptureFixture) -> None:
    capsys.readouterr()
    assert main(["search", "a dog", "-i", "photos.parquet", "-k", "3", "-f", "json", "--html", "found.html"]) == 0
    found = json.loads(capsys.readouterr().out)
    model, _ = load_two_towers("model")
    prepare = preparation((32, 32), 3, SAID)
    names = [f"photos/{number}.png" for number in range(5)]
    with torch.no_grad():
        images = model.encode_image(torch.stack([prepare(read_image(Path(name))) for name in names]))
        expected = (images @ model.encode_text(ClipTokenizer(12)(["a dog"])).T)[:, 0]
    best = expected.argsort(descending=True)[:3].tolist()
    assert [item["path"] for item in found] == [names[index] for index in best]
    assert [item["similarity"] for item in found] == pytest.approx(expected[best].tolist(), abs=1e-5)
    page = (folder / "found.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "a dog" in page


def test_by_a_picture(folder: Path, capsys: pytest.CaptureFixture) -> None:
    capsys.readouterr()
    assert main(["search", "photos/2.png", "-i", ".", "-k", "1"]) == 0
    assert capsys.readouterr().out == "1.000  photos/2.png\n"


def test_texts_are_embedded_too(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "texts.txt").write_text("a cat\na dog\n\na bird\n")
    assert main(["embed", "--texts", "texts.txt", "-m", "model", "-o", "texts.parquet", "-p", "float32"]) == 0
    names, features, about = read_features(folder / "texts.parquet")
    assert names == ["a cat", "a dog", "a bird"]
    assert about["feature"] == "text"
    model, _ = load_two_towers("model")
    with torch.no_grad():
        expected = model.encode_text(ClipTokenizer(12)(names))
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)


def test_the_index_is_exact() -> None:
    random = np.random.default_rng(0)
    x, query = (random.standard_normal((count, 8)).astype(np.float32) for count in (200, 4))
    similar = F.normalize(torch.from_numpy(query)) @ F.normalize(torch.from_numpy(x)).T
    values, places = similar.topk(5)
    for row, near, best in zip(Index([str(i) for i in range(200)], x).search(query, 5), values, places, strict=True):
        assert [name for name, _ in row] == [str(int(place)) for place in best]
        assert [value for _, value in row] == pytest.approx(near.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["", "-i", "photos.parquet"], "the query is empty"),
        (["a dog", "-i", "absent.parquet"], "no such file"),
        (["a dog", "-i", "photos"], "0 .parquet files"),
        (["a dog", "-i", "photos/0.png"], "no table of features"),
    ],
)
def test_bad_input(folder: Path, capsys: pytest.CaptureFixture, arguments: list[str], said: str) -> None:
    capsys.readouterr()
    assert main(["search", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("error:") == 1
    assert said in err


def test_what_to_embed_has_to_be_said(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["embed", "-m", "model", "-o", "x.parquet"]) == 2
    assert "pictures, or --texts" in capsys.readouterr().err
