"""Pictures of every kind become what they should or are refused by name; broken ones are passed over in training."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import array, png, put, write

from core.data.auto import Auto
from core.data.examples import ImageExamples, Transform
from core.data.images import read_image
from core.data.loader import Loader, TrainLoader
from core.data.order import Order
from core.data.skip import Skipping
from core.errors import InputError
from core.train.cli import main
from vision.augment import Preprocess
from vision.tasks.data import ImageData


def _bytes(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _good() -> dict[str, tuple[bytes, list[int], int]]:
    """What a file holds, the colour at its upper left, and how far off that may be."""
    red, blue = Image.new("RGB", (8, 8), (250, 10, 20)), Image.new("RGB", (8, 8), (10, 20, 250))
    palette = red.quantize(4)
    deep = Image.fromarray(np.full((8, 8), 51_400, np.uint16))
    half = Image.new("LA", (8, 8), (100, 0))
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = Image.new("RGB", (8, 8))
    turned.paste((250, 10, 20), (4, 4, 8, 8))
    return {
        "cmyk.jpg": (_bytes(red.convert("CMYK"), "JPEG", quality=95), [250, 10, 20], 8),
        "deep.png": (_bytes(deep, "PNG"), [200, 200, 200], 0),
        "deep.tif": (_bytes(deep, "TIFF"), [200, 200, 200], 0),
        "big endian.tif": (_bytes(Image.fromarray(np.full((8, 8), 51_400, ">u2")), "TIFF"), [200, 200, 200], 0),
        "float.tif": (_bytes(Image.fromarray(np.full((8, 8), 0.2, np.float32)), "TIFF"), [51, 51, 51], 0),
        "palette.png": (_bytes(palette, "PNG", transparency=palette.getpixel((0, 0))), [255, 255, 255], 0),
        "grey and alpha.png": (_bytes(half, "PNG"), [255, 255, 255], 0),
        "animated.gif": (_bytes(red, "GIF", save_all=True, append_images=[blue, blue]), [250, 10, 20], 4),
        "one.png": (_bytes(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), [1, 2, 3], 0),
        "one bit.png": (_bytes(Image.new("1", (8, 8), 1), "PNG"), [255, 255, 255], 0),
        "turned.png": (_bytes(turned, "PNG", exif=exif), [250, 10, 20], 0),
    }


@pytest.mark.parametrize("name", _good())
def test_pictures_of_every_kind(tmp_path: Path, name: str):
    content, colour, tolerance = _good()[name]
    put(tmp_path / name, content)
    for image in (read_image(tmp_path / name), read_image(content)):
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image)[0, 0].astype(int) - colour).max() <= tolerance


def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path):
    rng = np.random.default_rng(0)
    photo = _bytes(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    picture = _bytes(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "PNG")
    bomb = _bytes(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 100_000
    cases = {
        "cut.jpg": (photo[: len(photo) // 2], "damaged"),
        "header.jpg": (photo[:20], "not a picture|damaged"),
        "empty.jpg": (b"", r"empty \(0 bytes\)"),
        "text.png": (b"hello", "not a picture"),
        "cut.png": (picture[:900], "damaged"),
        "flipped.png": (picture[:60] + bytes(40) + picture[100:], "damaged"),
        "bomb.png": (bomb, "limit"),
    }
    for name, (content, message) in cases.items():
        put(tmp_path / name, content)
        for source in (tmp_path / name, content):
            with pytest.raises(InputError, match=message) as caught:
                read_image(source, name=name)
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"20000 x 20000|more pixels"):
        read_image(bomb, 1 << 24)


class _Grey(Transform):
    def __call__(self, images, keys):
        return torch.stack([torch.from_numpy(np.asarray(image)[..., 0].copy()).float() for image in images])


def _with_broken(root: Path, kind: str, broken: list[int]) -> Skipping:
    write(root, kind)
    for number in broken:
        put(root / "train" / ("cat", "dog")[number % 2] / f"{number:02}.png", b"no picture")
    return Skipping(Auto().open(root, "train"), limit=2, report=root / "bad_images.txt")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:passed over")
def test_the_next_readable_image_stands_in(tmp_path: Path, workers: int):
    images = _with_broken(tmp_path, "folders", [4, 6])  # numbers 2 and 3: the 0th to 5th are the even ones
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader = TrainLoader(ImageExamples(images, _Grey()), Order(12, 4), workers)
        for epoch in range(3):
            loader.set_epoch(epoch)
            batches = list(loader)
            assert [len(batch["image"]) for batch in batches] == [4, 4, 4]
    assert len(caught) == (2 if workers == 0 else 0)  # with workers it is they who warn, on their standard error
    assert images.broken == [2, 3]
    report = (tmp_path / "bad_images.txt").read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in report) == ["cat/04.png", "cat/06.png"]
    # the stand-in has its own picture, number and label
    batch = ImageExamples(images, _Grey()).__getitems__([(0, 1), (0, 2), (0, 3), (0, 6)])
    assert batch["index"].tolist() == [1, 4, 4, 6]
    assert batch["label"].tolist() == [0, 0, 0, 1]
    assert np.array_equal(batch["image"][2].numpy(), array("train", 8))
    # whoever meets them first, and in whatever order, the same stand in
    fresh = Skipping(images.whole, 2)
    with pytest.warns(UserWarning, match="passed over, 2 so far of at most 2"):
        assert fresh.take([3, 2, 1])[1] == [4, 4, 1]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:passed over")
def test_beyond_the_limit_it_stops(tmp_path: Path, workers: int):
    images = _with_broken(tmp_path, "folders", [1, 5, 7])
    loader = Loader(ImageExamples(images, _Grey()), Order(12, 4, shuffle=False), workers)
    with pytest.raises(InputError, match=r"3 images can't be read, the limit is 2 \(skip_limit\); the last: .*07\.png"):
        list(loader)
    with pytest.raises(InputError, match="limit is 0"):
        Skipping(images.whole, 0).read([6])
    for path in (tmp_path / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of the 12 images"):
        Skipping(images.whole, 99).read([0])


@pytest.mark.filterwarnings("ignore:passed over")
def test_image_data_of_plain_photos(tmp_path: Path):
    write(tmp_path, "photos")
    data = ImageData(str(tmp_path), Preprocess(16), batch_size=4, hold_out=0.25, workers=0, seed=1)
    data.setup("fit")
    assert (len(data.images("train")), len(data.images("val"))) == (9, 3)
    names = {data.images(split).name(n) for split in ("train", "val") for n in range(len(data.images(split)))}
    assert len(names) == 12
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        assert set(batch) == {"image", "index"}
    everything = ImageData(str(tmp_path), Preprocess(16), batch_size=4, hold_out=0, few=8, workers=0)
    everything.setup("fit")
    assert len(everything.images("train")) == 8
    assert everything.val_dataloader() == []
    put(tmp_path / "broken.png", b"")
    with pytest.raises(InputError, match="has no test split"):
        everything.setup("test")
    predicted = ImageData(str(tmp_path), Preprocess(16), workers=0)
    with pytest.raises(InputError, match=r"broken\.png: empty"):  # a prediction never stands in for another
        list(predicted.predict_dataloader())
    assert png("train", 0) == (tmp_path / "00.png").read_bytes()


def _arguments(root: Path, runs: Path, *more: str) -> list[str]:
    shape = ["image=[16,16]", "patch=8", "dim=16", "depth=1", "heads=2", "classes=2"]
    return [
        "fit", "-c", str(runs.parent / "empty.yaml"), "--runs", str(runs), "--name", "bad",
        "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false",
        "--model", "vision.tasks.classify.Classify", "--model.classes", "2", "--model.model", "vision.vit.ViT",
        *(f"--model.model.config.{item}" for item in shape),
        "--data", "vision.tasks.data.ImageData", "--data.root", str(root), "--data.batch_size", "4",
        "--data.workers", "1", "--data.hold_out", "0.2",
        "--data.preprocess", "vision.augment.Preprocess", "--data.preprocess.size", "16", *more,
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:passed over")
def test_a_run_lists_its_bad_images_and_goes_on(tmp_path: Path):
    (tmp_path / "empty.yaml").write_text("seed_everything: 0\n")
    write(tmp_path / "data", "folders")
    for name in ("cat/04.png", "dog/01.png"):
        put(tmp_path / "data" / "train" / name, b"")
    main(_arguments(tmp_path / "data", tmp_path / "runs"))
    listed = (tmp_path / "runs/bad/version_0/bad_images.txt").read_text().splitlines()
    assert {line.split("\t")[0] for line in listed} == {"cat/04.png", "dog/01.png"}
    assert len(listed) == 2
    with pytest.raises(InputError, match=r"can't be read, the limit is 0"):
        main(_arguments(tmp_path / "data", tmp_path / "none", "--data.skip_limit", "0"))
    write(tmp_path / "photos", "photos")
    with pytest.raises(InputError, match="have no labels"):
        main(_arguments(tmp_path / "photos", tmp_path / "none"))
