"""Captions of every format that can hold them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import png, put, write_tar

from core.data.auto import recognise
from core.data.sets import ImageSet, Part, hold_out
from core.data.skip import Skipping
from core.data.table import Table
from core.errors import InputError
from multimodal.captions import Given
from multimodal.tasks.data import ImageTextData
from vision.augment import Preprocess

WANTED = [("a red thing", "something red"), ("a blue thing",), ("Straße, naïve",)]


def write(root: Path, kind: str) -> None:
    """Three pictures with the captions of `WANTED`."""
    pictures = [png("train", number) for number in range(3)]
    if kind == "table":
        rows = ["image\tcaption", *(f"{n}.png\t{text}" for n, texts in enumerate(WANTED) for text in texts)]
        put(root / "train.tsv", "\n".join(rows).encode())
        for number, picture in enumerate(pictures):
            put(root / f"{number}.png", picture)
    elif kind == "shards":
        members = {f"{number}.png": picture for number, picture in enumerate(pictures)}
        members["0.json"] = json.dumps({"caption": list(WANTED[0]), "width": 3}).encode()
        members["1.txt"] = b"a blue thing\n"
        members["1.json"] = json.dumps({"text": "the .txt comes first"}).encode()
        members["2.txt"] = WANTED[2][0].encode()
        write_tar(root / "train-0000.tar", members)
    elif kind == "parquet":
        texts = [list(texts) for texts in WANTED]
        table = pa.table({"image": [{"bytes": picture, "path": None} for picture in pictures], "caption": texts})
        root.mkdir(parents=True)
        pq.write_table(table, root / "train-00000-of-00001.parquet")
    else:
        notes = [{"image_id": n, "caption": text, "id": 0} for n, texts in enumerate(WANTED) for text in texts]
        images = [{"id": n, "file_name": f"{n}.png"} for n in range(3)]
        said = {"info": {}, "images": images, "annotations": notes[::-1]}
        put(root / "annotations" / "captions_train2017.json", json.dumps(said).encode())
        for number, picture in enumerate(pictures):
            put(root / "train2017" / f"{number}.png", picture)


def said(images: ImageSet) -> list[set[str]]:
    assert images.captions is not None
    assert len(images.captions) == len(images)
    return [set(texts) for texts in images.captions]


@pytest.mark.parametrize("kind", ["shards", "parquet", "coco"])
def test_each_image_has_its_captions(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "set", kind)
    for _ in range(2):  # the second time from the index that shards keep
        images = recognise(tmp_path / "set").open(tmp_path / "set", "train")
        assert images is not None
        assert said(images) == [set(texts) for texts in WANTED]
        assert len(images.read([0, 1, 2])) == 3
    part, _ = hold_out(Skipping(images), 0.4)
    assert said(part) == [set(WANTED[index]) for index in part.indices]


def test_a_table_has_a_row_for_each_caption(tmp_path: Path) -> None:
    write(tmp_path, "table")
    images = recognise(tmp_path).open(tmp_path, "train")
    assert images is not None
    assert images.captions == [(text,) for texts in WANTED for text in texts]
    assert [images.name(index) for index in range(4)] == ["0.png", "0.png", "1.png", "2.png"]
    with pytest.raises(InputError, match="expected subtitle"):
        Table(caption="subtitle").open(tmp_path, "train")


def test_without_captions_there_are_none(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"0.png": png("train", 0), "0.cls": b"3"})
    images = recognise(tmp_path).open(tmp_path, "train")
    assert images is not None
    assert images.captions is None


def test_images_without_a_caption_are_left_out_of_training(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {f"{n}.png": png("train", n) for n in range(4)} | {"2.txt": b"a hat"})
    data = ImageTextData(str(tmp_path), Preprocess(16), hold_out=0)
    with pytest.warns(UserWarning, match="3 of 4 images have no caption"):
        images = data.images("train")
    assert said(images) == [{"a hat"}]
    whole = recognise(tmp_path).open(tmp_path, "train")
    assert whole is not None
    with pytest.raises(InputError, match=r"0: has no caption"):
        Given()(whole.read([0]), [0], Part(whole, np.arange(2)), np.array([7], np.uint64))


@pytest.mark.parametrize(
    "content",
    [b"[]", b"{}", b'{"images": [{"id": 1}], "annotations": []}', b'{"images": [], "annotations": []}',
     b'{"images": [{"id": 1, "file_name": "../x.png"}], "annotations": []}',
     b'{"images": [{"id": 1, "file_name": "x.png"}], "annotations": [{"image_id": 2, "caption": "a"}]}', b"{"],
)  # fmt: skip
def test_a_bad_coco_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    put(tmp_path / "captions_train2017.json", content)
    with pytest.raises(InputError) as caught:
        recognise(tmp_path).open(tmp_path, "train")
    assert "captions_train2017.json" in str(caught.value)
    assert "\n" not in str(caught.value)
