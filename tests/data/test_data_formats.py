"""Every format against hand-written samples: what is read, exact resuming, shares of processes, and clear errors."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from samples import CLASSES, FORMATS, array, png, put, write, write_tar

from core.data.auto import Auto, recognise
from core.data.examples import ImageExamples, Transform
from core.data.images import ImageFolder
from core.data.loader import TrainLoader
from core.data.order import Order
from core.data.parquet import Parquet
from core.data.photos import Photos
from core.data.sets import few
from core.data.shards import Shards, expand_braces
from core.data.table import Table
from core.errors import InputError

RECOGNISED = {
    "idx": "Idx", "folders": "ImageFolder", "photos": "Photos", "shards": "Shards", "shards-json": "Shards",
    "parquet": "Parquet", "parquet-plain": "Parquet", "parquet-readme": "Parquet", "table": "Table",
}  # fmt: skip


class _Grey(Transform):
    def __call__(self, images, keys):
        noise = torch.from_numpy((keys % 1000).astype(np.float32))[:, None, None]
        stacked = np.stack([image if isinstance(image, np.ndarray) else np.asarray(image)[..., 0] for image in images])
        return torch.from_numpy(stacked).float() + noise


def _numbers(kind: str) -> list[int]:
    """The order of the 12 pictures in a format: class folders come one after the other."""
    return [*range(0, 12, 2), *range(1, 12, 2)] if kind == "folders" else list(range(12))


@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_written_is_read(tmp_path: Path, kind: str):
    root = write(tmp_path, kind)
    assert type(recognise(root)).__name__ == RECOGNISED[kind]
    train = Auto().open(root, "train")
    assert len(train) == 12
    for place in (7, 0, 11, 3):  # at random, not in order
        image = train.read([place])[0]
        grey = image if isinstance(image, np.ndarray) else np.asarray(image)[..., 0]
        assert np.array_equal(grey, array("train", _numbers(kind)[place]))
    if kind == "photos":
        assert train.labels is None
    else:
        assert train.labels.tolist() == [number % 2 for number in _numbers(kind)]
        assert train.classes == (["0", "1"] if kind in ("idx", "shards", "parquet-plain") else CLASSES)
        assert len(Auto().open(root, "test")) == 4
    assert len({train.name(number) for number in range(12)}) == 12
    assert Auto().open(root, "val") is None
    assert len(Auto().open(root, "predict")) == {"folders": 16, "photos": 12}.get(kind, 4)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_and_shares_are_exact(tmp_path: Path, kind: str, workers: int):
    examples = ImageExamples(Auto().open(write(tmp_path, kind), "train"), _Grey(), 3)
    order = Order(12, 4, 3)
    whole = list(TrainLoader(examples, order))
    loader = TrainLoader(examples, order, workers)
    first = next(iter(loader))
    resumed = TrainLoader(ImageExamples(Auto().open(tmp_path, "train"), _Grey(), 3), order)
    resumed.load_state_dict(loader.state_dict())
    assert torch.equal(first["image"], whole[0]["image"])
    rest = list(resumed)
    assert len(rest) == 2
    for ours, theirs in zip(rest, whole[1:], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    shares = [list(TrainLoader(examples, Order(12, 4, 3, True, rank, 2))) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([part["image"] for part in parts]), batch["image"])


def test_patterns_of_shards(tmp_path: Path):
    assert expand_braces("a-{08..11}-{x,y}.tar")[:3] == ["a-08-x.tar", "a-08-y.tar", "a-09-x.tar"]
    write(tmp_path, "shards")
    for pattern in ("train-{000..001}.tar", "train-*.tar"):
        assert len(Auto().open(tmp_path / pattern, "train")) == 12
    assert len(Auto().open(tmp_path / "train-001.tar", "train")) == 6
    with pytest.raises(InputError, match="no such file \\(2 of 4 shards"):
        Shards().open(tmp_path / "train-{000..003}.tar", "train")


def test_the_index_of_a_shard_is_kept_and_renewed(tmp_path: Path):
    write(tmp_path, "shards")
    Shards().open(tmp_path, "train")
    kept = tmp_path / ".train-000.tar.index.json"
    content = json.loads(kept.read_text())
    content["rows"] = content["rows"][:2]
    kept.write_text(json.dumps(content))
    assert len(Shards().open(tmp_path, "train")) == 8  # it is used
    write_tar(tmp_path / "train-000.tar", {"q.png": png("train", 0), "q.cls": b"1"})
    assert len(Shards().open(tmp_path, "train")) == 7  # of another file it is not
    kept.write_text("[1")
    assert len(Shards().open(tmp_path, "train")) == 7
    # keys end at the first dot, other members are no pictures
    members = {"a.b/1.x.png": png("train", 0), "a.b/2.jpg": png("train", 1), "a.b/2.cls": b"0"}
    write_tar(tmp_path / "train-000.tar", members)
    os.utime(tmp_path / "train-000.tar", ns=(1, 1))
    found = Shards().open(tmp_path, "train")
    assert len(found) == 7
    assert found.name(0) == "train-000.tar/a.b/2"


def test_a_column_tells_the_split(tmp_path: Path):
    for number in range(4):
        put(tmp_path / f"{number}.png", png("train", number))
    rows = ["file\tsplit\tclass", "0.png\ttrain\tb", "1.png\ttrain\ta", "2.png\tvalidation\tb", "3.png\ttest\ta"]
    (tmp_path / "all.tsv").write_text("\n".join(rows))
    assert isinstance(recognise(tmp_path), Table)
    sets = {split: Table().open(tmp_path, split) for split in ("train", "val", "test", "predict")}
    assert {split: len(found) for split, found in sets.items()} == {"train": 2, "val": 1, "test": 1, "predict": 1}
    assert sets["val"].labels.tolist() == [1]
    assert sets["predict"].name(0) == "3.png"
    (tmp_path / "all.tsv").write_text("\n".join([*rows, "3.png\ttest\tcow"]))
    with pytest.raises(InputError, match="classes that training doesn't have: cow"):
        Table().open(tmp_path, "test")
    (tmp_path / "all.tsv").write_text("\n".join([*rows, "3.png\ttest"]))
    with pytest.raises(InputError, match="line 6 has 2 cells, the header 3"):
        Table().open(tmp_path, "train")
    with pytest.raises(InputError, match="expected picture"):
        Table("picture").open(tmp_path, "train")


def test_parquet_that_names_files_and_keeps_labels_back(tmp_path: Path):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    names = ["a.png", "../outside.png", None]
    column = pa.array([{"bytes": None, "path": name} for name in names], kind)
    pq.write_table(pa.table({"img": column, "label": [-1, -1, -1]}), tmp_path / "train.parquet")
    put(tmp_path / "a.png", png("train", 5))
    found = Parquet().open(tmp_path, "train")
    assert found.labels is None
    assert np.array_equal(np.asarray(found.read([0])[0])[..., 0], array("train", 5))
    for number, message in ((1, "outside of the data set"), (2, "nothing in this row")):
        with pytest.raises(InputError, match=message):
            found.read([number])


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path):
    def fails(message: str, name: str, format=None) -> None:
        with pytest.raises(InputError, match=message) as caught:
            (format or Auto()).open(tmp_path / name, "train")
        assert "\n" not in str(caught.value)

    (tmp_path / "none").mkdir()
    fails("looked for IDX files", "none")
    fails("no such folder", "absent")
    fails("no pictures", "none", Photos())
    fails("no tar shards", "none", Shards())
    fails(r"no \.parquet", "none", Parquet())
    fails(r"no \.csv", "none", Table())
    put(tmp_path / "one/cat/1.png", png("train", 0))
    fails("one class folder only", "one", ImageFolder())
    assert Auto().open(tmp_path / "one", "train").labels is None  # photos in a folder, for all that is known
    put(tmp_path / "text/train.tar", b"no tar" * 999)
    fails("not a plain tar file", "text")
    write(tmp_path / "cut", "shards")
    whole = (tmp_path / "cut/train-000.tar").read_bytes()
    put(tmp_path / "cut/train-000.tar", whole[:600])
    fails("damaged|cut short", "cut")
    put(tmp_path / "packed/train.tar", gzip.compress(whole))
    fails("not a plain tar file", "packed")
    put(tmp_path / "parquet/train.parquet", b"PAR1")
    fails("not a parquet file", "parquet")


def test_few_images_are_balanced_and_nested(tmp_path: Path):
    train = Auto().open(write(tmp_path, "folders"), "train")
    part, larger = few(train, 6), few(train, 9)
    assert np.bincount(part.labels).tolist() == [3, 3]
    assert sorted(np.bincount(larger.labels).tolist()) == [4, 5]
    assert set(part.indices) < set(larger.indices)
    assert np.array_equal(few(train, 6).indices, part.indices)
    with pytest.raises(InputError, match="there are 12 training images"):
        few(train, 13)
