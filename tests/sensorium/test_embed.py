"""Pictures to features: preparation as timm and transformers do it, files good and bad, interruptions, formats."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import vision.embed
from core.data.images import read_image
from core.errors import InputError
from core.weights import Bundle, save_bundle
from sensorium.cli import main
from vision.augment import Preprocess
from vision.features import image_features
from vision.preprocess import Preparation, preparation
from vision.vit import ViT, ViTConfig

SAID = {"input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.4] * 3, "std": [0.3] * 3}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle `model`, seven pictures of all sizes in `photos`, and two files that are none."""
    monkeypatch.chdir(tmp_path)
    config = {"image": [32, 32], "patch": 8, "dim": 24, "depth": 2, "heads": 3, "classes": 0}
    vit = ViT(ViTConfig(image=(32, 32), patch=8, dim=24, depth=2, heads=3, classes=0))
    save_bundle(tmp_path / "model", vit, Bundle("vision.ViT", config, preprocessing=SAID))
    other = ViT(ViTConfig(image=(32, 32), patch=8, dim=24, depth=1, heads=3, classes=0, cls_token=False, pool="mean"))
    save_bundle(
        tmp_path / "mean", other, Bundle("vision.ViT", {**config, "depth": 1, "cls_token": False, "pool": "mean"})
    )
    random = np.random.default_rng(0)
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for number in range(7):
        array = random.integers(0, 255, (20 + 9 * number, 60 - 5 * number, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "photos" / ("deep" if number > 4 else "") / f"{number}.png")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (tmp_path / "photos" / "empty.png").touch()
    return tmp_path


def expected(paths: list[str], feature: str = "pooled") -> np.ndarray:
    """The features one by one, prepared by timm."""
    from vision.load import load_encoder

    vit, _ = load_encoder("model")
    timms = Preprocess(32, 0.9, "bicubic", (0.4,) * 3, (0.3,) * 3)
    images = [timms([read_image(Path(path))], np.zeros(1, np.uint64)) for path in paths]
    with torch.no_grad():
        return torch.cat([image_features(vit, image, feature) for image in images]).numpy()  # type: ignore[arg-type]


def test_a_folder_to_parquet(folder: Path, capsys: pytest.CaptureFixture):
    assert main(["embed", "photos", "-m", "model", "-o", "f.parquet", "-b", "3", "-p", "float32"]) == 1
    out, err = capsys.readouterr()
    assert out == "f.parquet: 7 features; 2 pictures could not be read\n"
    assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "error"]
    assert "photos/broken.jpg" in err
    assert "photos/empty.png" in err
    table = pq.read_table("f.parquet")
    paths = table["path"].to_pylist()
    assert paths == [f"photos/{n}.png" for n in range(5)] + [f"photos/deep/{n}.png" for n in (5, 6)]
    np.testing.assert_allclose(np.stack(table["embedding"].to_numpy()), expected(paths), rtol=1e-4, atol=1e-5)
    assert json.loads(table.schema.metadata[b"sensorium"])["feature"] == "pooled"
    assert sorted(path.name for path in folder.iterdir()) == ["f.parquet", "mean", "model", "photos"]


def test_globs_to_csv_and_npy(folder: Path):
    for out in ("f.csv", "f.npy"):
        options = ["--feature", "cls+mean", "-p", "float32"]
        assert main(["embed", "photos/*.png", "photos/deep", "photos/1.png", "-m", "model", "-o", out, *options]) == 1
    paths = Path("f.paths.txt").read_text().splitlines()
    assert len(paths) == len(set(paths)) == 7
    array = np.load("f.npy")
    np.testing.assert_allclose(array, expected(paths, "cls+mean"), rtol=1e-4, atol=1e-5)
    rows = list(csv.reader(Path("f.csv").read_text().splitlines()))
    assert rows[0] == ["path", *map(str, range(48))]
    assert [row[0] for row in rows[1:]] == paths
    assert np.array_equal(np.array([row[1:] for row in rows[1:]], np.float32), array)  # every digit


def test_in_half_precision(folder: Path):
    assert main(["embed", "photos/0.png", "-m", "model", "-o", "f.npy", "--precision", "bfloat16"]) == 0
    exact = expected(["photos/0.png"])
    assert 0 < np.abs(np.load("f.npy") - exact).max() < 0.1 * np.abs(exact).max()


def test_an_interrupted_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(vision.embed, "CHUNK", 2)
    command = ["embed", "photos", "-m", "model", "-b", "2", "-o"]
    assert main([*command, "whole.npy"]) == 1
    told = capsys.readouterr().err
    embed, read = vision.embed.Embedder._embed, []

    def stops(embedder: vision.embed.Embedder, found: list) -> vision.embed.Chunk:
        read.append(len(found))
        if len(read) == 4:
            raise KeyboardInterrupt
        return embed(embedder, found)

    monkeypatch.setattr(vision.embed.Embedder, "_embed", stops)
    assert main([*command, "f.npy"]) == 130
    assert not Path("f.npy").exists()
    assert len(list(Path("f.npy.partial").glob("*.npz"))) == 3
    capsys.readouterr()
    # not with something else
    assert main(["embed", "photos", "-m", "model", "-o", "f.npy", "--feature", "mean"]) == 2
    assert "unfinished result of other images or settings" in capsys.readouterr().err
    assert main([*command, "f.npy"]) == 1
    assert len(read) == 6  # five chunks, one of which was begun twice
    assert Path("f.npy").read_bytes() == Path("whole.npy").read_bytes()
    assert Path("f.paths.txt").read_text() == Path("whole.paths.txt").read_text()
    assert capsys.readouterr().err == told
    assert not Path("f.npy.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "-m", "model", "-o", "f.txt"], "written as .parquet, .csv, .npy"),
        (["nothing/*.jpg", "-m", "model", "-o", "f.npy"], "no pictures there"),
        (["model", "-m", "model", "-o", "f.npy"], "no pictures there"),
        (["photos/0.png", "-m", "vit_smal_patch16_224", "-o", "f.npy"], "vit_small_patch16_224"),
        (["photos/0.png", "-m", "./nowhere", "-o", "f.npy"], "nowhere"),
        (["nothing.png", "-m", "model", "-o", "f.npy"], "nothing.png: no such file"),
        (["photos/empty.png", "-m", "model", "-o", "f.npy"], "empty"),
        (["photos/0.png", "-m", "model", "-o", "f.npy", "-b", "0"], "batch-size"),
        (["photos/0.png", "-m", "mean", "-o", "f.npy", "--feature", "cls"], "needs a class token"),
    ],
)
def test_bad_input_is_one_line(folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    before = sorted(folder.rglob("*"))
    assert main(["embed", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert message in err
    assert sorted(folder.rglob("*")) == before


def test_a_picture_explained(folder: Path, capsys: pytest.CaptureFixture):
    assert main(["explain", "photos/3.png", "-m", "model", "-o", "all.png"]) == 0
    assert Image.open("all.png").size == (5 * 228 + 4, 2 * (228 + 16) + 4)  # image, rollout, components, 3 heads
    assert main(["explain", "photos/3.png", "-m", "model", "-o", "pca.png", "--method", "pca", "--size", "50"]) == 0
    assert capsys.readouterr().out == "all.png\npca.png\n"
    for arguments, message in (
        (["photos/3.png", "-m", "model", "--method", "cam"], "no method 'cam'"),
        (["photos/3.png", "-m", "model", "--block", "2"], "has blocks 0..1"),
        (["photos/3.png", "-m", "model", "-o", "a.jpg"], "PNG"),
        (["photos/broken.jpg", "-m", "model"], "broken.jpg"),
        (["photos/3.png", "-m", "model", "--size", "9999999"], "more than 4096 x 4096"),
    ):
        assert main(["explain", *arguments]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1
    assert not Path("explain.png").exists()


def test_a_classifier_names_its_classes(folder: Path, capsys: pytest.CaptureFixture):
    config = {"image": [32, 32], "patch": 8, "dim": 24, "depth": 1, "heads": 3, "classes": 3, "channels": 1}
    vit = ViT(ViTConfig(image=(32, 32), patch=8, dim=24, depth=1, heads=3, classes=3, channels=1))
    said = {"class_path": "vision.augment.Small", "init_args": {"mean": [0.3], "std": [0.3]}}
    bundle = Bundle("vision.ViT", config, preprocessing=said, labels=("cat", "dog", "cow"))
    save_bundle(folder / "classifier", vit, bundle)
    assert main(["explain", "photos/3.png", "-m", "classifier"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[1] for line in lines[:3]) == ["cat", "cow", "dog"]
    assert lines[3] == "explain.png"


@pytest.mark.parametrize("size", [(50, 91), (91, 50), (37, 37), (640, 480), (33, 400)])
@pytest.mark.parametrize("crop", [0.875, 0.9, 1.0])
def test_preparation_is_timms(size: tuple[int, int], crop: float):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8))
    for method in ("bicubic", "bilinear"):
        timms = Preprocess(36, crop, method)([image], np.zeros(1, np.uint64))[0]
        said = {"class_path": "vision.augment.Preprocess", "init_args": {"size": 36, "crop": crop}}
        said["init_args"]["interpolation"] = method  # type: ignore[index]
        torch.testing.assert_close(preparation((36, 36), 3, said)(image), timms)


def test_preparation_is_transformers():
    from transformers import BitImageProcessorPil, ViTImageProcessorPil

    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (77, 50, 3), dtype=np.uint8))
    squash = ViTImageProcessorPil(size={"height": 32, "width": 32})
    crop = BitImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, resample=3)
    for peer in (squash, crop):
        theirs = torch.as_tensor(np.asarray(peer(image, return_tensors="np")["pixel_values"][0]))
        ours = preparation((32, 32), 3, json.loads(peer.to_json_string()))(image)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_preparations_that_cannot_be():
    for said, message in (
        ({"crop_mode": "border"}, "crops by 'border'"),
        ({"interpolation": "magic"}, "MAGIC"),
        ({"class_path": "os.system"}, "os.system"),
        ({"mean": 3}, "can't be followed"),
        ({"mean": [1.0, 2.0]}, "one or three"),
    ):
        with pytest.raises(InputError, match=message):
            preparation((32, 32), 3, said)
    with pytest.raises(InputError, match="shorter side"):
        Preparation((32, 32), 30)
