"""Chats in JSON lines and parquet, in OpenAI's and LLaVA's form, with pictures beside them and inside."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.data.chats import ChatFiles, Told
from core.errors import InputError

ANSWER = {"role": "assistant", "content": "a bag"}


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (5, 7, 3), dtype=np.uint8))


def as_bytes(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "png")
    return file.getvalue()


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(root: Path, split: Any = "train") -> list[Told]:
    chats = ChatFiles().open(root, split)
    assert chats is not None
    return chats.read(range(len(chats)))


def same(found: Any, seed: int) -> bool:
    return bool((np.asarray(found.convert("RGB")) == np.asarray(picture(seed))).all())


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_texts(ending: str, tmp_path: Path) -> None:
    asked = {"role": "user", "content": "what is it?"}
    turns = [
        {"from": "system", "value": "be short"},
        {"from": "human", "value": "hello"},
        {"from": "gpt", "value": "hi"},
    ]
    write(tmp_path / f"train-0.{ending}", [{"messages": [asked, ANSWER]}])
    write(tmp_path / f"train-1.{ending}", [{"conversations": turns}])
    write(tmp_path / f"test.{ending}", [{"messages": [asked, ANSWER]}] * 2)
    first, second = read(tmp_path)
    assert [dict(message) for message in first.fields["messages"]] == [asked, ANSWER]
    assert [message["role"] for message in second.fields["messages"]] == ["system", "user", "assistant"]
    assert [message["content"] for message in second.fields["messages"]] == ["be short", "hello", "hi"]
    assert first.pictures == second.pictures == []
    assert len(read(tmp_path, "test")) == 2
    assert ChatFiles().open(tmp_path, "val") is None


@pytest.mark.parametrize("form", ["beside", "inside", "parts"])
def test_pictures(form: str, tmp_path: Path) -> None:
    for seed in (1, 2):
        (tmp_path / f"{seed}.png").write_bytes(as_bytes(seed))
    if form == "inside":  # as `datasets` writes them: bytes and a name
        asked: Any = [
            {"type": "image", "text": None},
            {"type": "image", "text": None},
            {"type": "text", "text": "which?"},
        ]
        images: Any = [{"bytes": as_bytes(seed), "path": None} for seed in (1, 2)]
        said = [{"role": "user", "content": asked}, {"role": "assistant", "content": [{"type": "text", "text": "one"}]}]
        root = write(tmp_path / "train.parquet", [{"messages": said, "images": images}])
    elif form == "beside":
        turns = [{"from": "human", "value": "<image>\n<image>\nwhich?"}, {"from": "gpt", "value": "one"}]
        root = write(tmp_path / "train.jsonl", [{"conversations": turns, "image": ["1.png", "2.png"]}])
    else:
        parts = [{"type": "image", "image": "1.png"}, {"type": "image_url", "image_url": {"url": "2.png"}}]
        content = [*parts, {"type": "text", "text": "which?"}]
        root = write(tmp_path / "train.jsonl", [{"messages": [{"role": "user", "content": content}, ANSWER]}])
    (told,) = read(root)
    assert [same(found, seed) for found, seed in zip(told.pictures, (1, 2), strict=True)] == [True, True]
    kinds = [part["type"].removesuffix("_url") for part in told.fields["messages"][0]["content"]]
    assert kinds == ["image", "image", "text"]
    assert told.fields["messages"][0]["content"][-1]["text"] == "which?"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "what?"}, "has no chat"),
        ({"conversations": [{"from": "cat", "value": "meow"}]}, "a turn should be"),
        ({"messages": [ANSWER], "image": "../outside.png"}, "outside of the data set"),
        ({"messages": [ANSWER], "image": "https://example.com/a.png"}, "expected a picture's path"),
        ({"messages": [ANSWER], "image": "nowhere.png"}, "nowhere.png"),
    ],
)
def test_what_cannot_be_read(row: Any, words: str, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [row])
    with pytest.raises(InputError, match=words):
        read(tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match="not a parquet file, or damaged"):
        read(tmp_path)
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(InputError, match=r"holds no \.jsonl or \.parquet"):
        read(tmp_path)
