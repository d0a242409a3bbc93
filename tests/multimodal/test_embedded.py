"""The model in assets/: small, offline, and as good as it says; and real photos, where real weights are at hand."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.idx import read_idx
from core.data.images import read_image
from core.nn.precision import Precision
from multimodal.zero_shot import ZeroShotClassifier, text_embeddings
from sensorium.cli import main
from sensorium.demo.words import LABELS
from sensorium.towers import open_towers

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "assets" / "clip_fashion_mnist"
SUBSET = ROOT / "assets" / "fashion_mnist_subset"
ASSETS = Path(os.environ.get("SENSORIUM_ASSETS", ROOT.parent / "shared" / "assets"))
PHOTOS = ASSETS / "images" / "captions"
REAL = os.environ.get("SENSORIUM_CLIP", "")


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 5_000_000


def test_it_tells_clothes_apart_by_words_in_any_precision() -> None:
    towers = open_towers(str(MODEL))
    images, truth = (read_idx(SUBSET / f"t10k-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1"))
    prepared = torch.stack([towers.prepare(Image.fromarray(image)) for image in images])

    def answers(precision: Precision) -> np.ndarray:
        few = prepared[:64] if precision == "int8" else None
        classifier = ZeroShotClassifier(towers.model, towers.tokenizer, LABELS, precision=precision, calibrate=few)
        return classifier(prepared).argmax(1).numpy()

    exact = answers("float32")
    accuracy = float((exact == truth).mean())
    assert accuracy >= 0.88, f"{100 * accuracy:.1f} %"
    others: tuple[Precision, ...] = ("auto", "bfloat16", "int8")
    for precision in others:
        agreement = float((answers(precision) == exact).mean())
        assert agreement >= 0.99, f"{precision}: {100 * agreement:.1f} %"


def test_classify_needs_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)  # wherever it is called
    images = read_idx(SUBSET / "t10k-images-idx3-ubyte.gz")
    for number in range(3):
        Image.fromarray(images[number]).save(f"{number}.png")
    assert main(["classify", ".", "--labels", ",".join(LABELS), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    truth = read_idx(SUBSET / "t10k-labels-idx1-ubyte.gz")[:3]
    assert np.mean([next(iter(row["labels"])) == LABELS[label] for row, label in zip(found, truth, strict=True)]) > 0.6


@pytest.mark.skipif(not REAL, reason="SENSORIUM_CLIP names no real weights")
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photos with captions")
def test_good_captions_outrank_bad_ones() -> None:
    """SENSORIUM_CLIP is a folder or a name of a CLIP or SigLIP that was trained on photos."""
    towers = open_towers(REAL)
    good, bad = (json.loads((PHOTOS / f"{kind}_captions.json").read_text()) for kind in ("good", "bad"))
    for name in good:
        image = towers.prepare(read_image(PHOTOS / "images" / f"{name}.jpg"))[None]
        with torch.no_grad():
            x = towers.model.encode_image(image)
        better, worse = (x @ text_embeddings(towers.model, towers.tokenizer, [good[name], bad[name]]).T)[0]
        assert better > worse, name
