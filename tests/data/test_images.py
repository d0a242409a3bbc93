"""Pictures in folders: upright RGB, limits, and what the folders mean."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from core.data.images import ImageFolder, read_image
from core.errors import InputError


def _picture(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB", **options) -> Image.Image:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    values = np.random.default_rng(len(str(path))).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    image = Image.fromarray(values, mode)
    image.save(path, **options)
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = _picture(tmp_path / "a.png", exif=exif)
    # the definition of the tag: which way the stored rows and columns are to be turned
    flip, turn = Image.Transpose, np.asarray(image)
    expected = {
        1: image, 2: image.transpose(flip.FLIP_LEFT_RIGHT), 3: image.transpose(flip.ROTATE_180),
        4: image.transpose(flip.FLIP_TOP_BOTTOM), 5: Image.fromarray(turn.transpose(1, 0, 2)),
        6: image.transpose(flip.ROTATE_270), 7: image.transpose(flip.TRANSVERSE), 8: image.transpose(flip.ROTATE_90),
    }[orientation]  # fmt: skip
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), np.asarray(expected))


def test_other_modes_become_rgb(tmp_path: Path):
    gray = _picture(tmp_path / "gray.png", mode="L")
    assert np.array_equal(np.asarray(read_image(tmp_path / "gray.png"))[..., 1], np.asarray(gray))
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(read_image(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 1, 255]
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert np.asarray(read_image(tmp_path / "clear.png")).tolist() == [[[255] * 3] * 2] * 2
    _picture(tmp_path / "palette.png").convert("P").save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").mode == "RGB"


def test_what_is_wrong_is_said(tmp_path: Path):
    image = _picture(tmp_path / "good.jpg", (300, 200))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:2000])
    for name, message in {
        "empty": "not a picture",
        "text": "not a picture",
        "cut": "damaged",
        "absent": "no such",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            read_image(tmp_path / f"{name}.jpg")
        assert f"{name}.jpg" in str(caught.value)
    with pytest.raises(InputError, match="300 x 200 pixels; the limit is 50000"):
        read_image(tmp_path / "good.jpg", max_pixels=50_000)
    # a bomb: a few bytes that claim very many pixels are refused by their header
    Image.new("L", (1, 1)).save(tmp_path / "bomb.png")
    data = bytearray((tmp_path / "bomb.png").read_bytes())
    data[16:24] = struct.pack(">2I", 40_000, 40_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(InputError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png")
    assert ImageOps.exif_transpose(image).size == (300, 200)


def test_folders_are_splits_and_classes(tmp_path: Path):
    for name in ("train/cat/2.png", "train/cat/1.JPG", "train/dog/deep/3.png", "val/dog/4.png", "train/.hidden/5.png"):
        _picture(tmp_path / name)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    train, val = ImageFolder().open(tmp_path, "train"), ImageFolder().open(tmp_path, "val")
    assert train is not None
    assert train.classes == ["cat", "dog"]
    assert [train.name(i) for i in range(len(train))] == ["cat/1.JPG", "cat/2.png", "dog/deep/3.png"]
    assert train.labels.tolist() == [0, 0, 1]
    assert val.labels.tolist() == [1]
    assert ImageFolder().open(tmp_path, "test") is None
    assert len(ImageFolder().open(tmp_path, "predict")) == 4
    # without a folder "train", the classes lie in the root
    flat = ImageFolder().open(tmp_path / "train", "train")
    assert flat.labels.tolist() == [0, 0, 1]
    assert ImageFolder().open(tmp_path / "train", "val") is None


def test_wrong_folders_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        ImageFolder().open(tmp_path / "absent", "train")
    with pytest.raises(InputError, match="no pictures"):
        ImageFolder().open(tmp_path, "train")
    with pytest.raises(InputError, match="no pictures"):
        ImageFolder().open(tmp_path, "predict")
    _picture(tmp_path / "train/cat/1.png")
    _picture(tmp_path / "test/cow/1.png")
    with pytest.raises(InputError, match="classes that training doesn't have: cow"):
        ImageFolder().open(tmp_path, "test")
