"""The same 12 pictures of two classes in every format."""

import csv
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ["cat", "dog"]
FORMATS = ["idx", "folders", "photos", "shards", "shards-json", "parquet", "parquet-plain", "parquet-readme", "table"]


def array(split: str, number: int) -> np.ndarray:
    """The picture (5, 5) with this number."""
    return np.random.default_rng([len(split), number]).integers(0, 256, (5, 5), dtype=np.uint8)


def png(split: str, number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array(split, number)).save(file, "PNG")
    return file.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_idx(path: Path, values: np.ndarray) -> None:
    head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    put(path, head + values.tobytes())


def write(root: Path, kind: str) -> Path:
    """12 pictures to train on and 4 to test on, in turn of class 0 and 1; sorted names are in the pictures' order."""
    for split, count in (("train", 12), ("test", 4)):
        contents = [png(split, number) for number in range(count)]
        if kind == "idx":
            stem = {"train": "train", "test": "t10k"}[split]
            images = np.stack([array(split, number) for number in range(count)])
            write_idx(root / f"{stem}-images-idx3-ubyte", images)
            write_idx(root / f"{stem}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 2)
        elif kind == "folders":
            for number, content in enumerate(contents):
                put(root / split / CLASSES[number % 2] / f"{number:02}.png", content)
        elif kind == "photos" and split == "train":
            for number, content in enumerate(contents):
                put(root / ("a" * (number // 4)) / f"{number:02}.png", content)
        elif kind.startswith("shards"):
            for shard in range(2):
                members = {}
                for number in range(shard * count // 2, (shard + 1) * count // 2):
                    members[f"x/{number:02}.png"] = contents[number]
                    if kind == "shards":
                        members[f"x/{number:02}.cls"] = str(number % 2).encode()
                    else:
                        members[f"x/{number:02}.json"] = json.dumps({"label": CLASSES[number % 2]}).encode()
                write_tar(root / f"{split}-{shard:03}.tar", members)
        elif kind.startswith("parquet"):
            _write_parquet(root, kind, split, contents)
        elif kind == "table":
            for number, content in enumerate(contents):
                put(root / "files" / f"{split}{number:02}.png", content)
            with (root / f"{split}.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["Path", "label"])
                table.writerows([f"files/{split}{n:02}.png", CLASSES[n % 2]] for n in range(count))
    return root


def _write_parquet(root: Path, kind: str, split: str, contents: list[bytes]) -> None:
    """As ``datasets`` writes it: two files, a struct of bytes and path, features in the schema's metadata."""
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    half = len(contents) // 2
    for number in range(2):
        part = contents[number * half : (number + 1) * half]
        images = [{"bytes": content, "path": None} for content in part]
        struct_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        column = pa.array(part) if kind == "parquet-plain" else pa.array(images, struct_type)
        table = pa.table({"label": pa.array([n % 2 for n in range(len(part))], pa.int64()), "image": column})
        table = table.replace_schema_metadata(told) if kind == "parquet" else table
        (root / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / "data" / f"{split}-{number:05}-of-00002.parquet", row_group_size=4)
    if kind == "parquet-readme":
        lines = ["---", "dataset_info:", "  features:", "  - name: image", "    dtype: image", "  - name: label"]
        classes = [f"          '{number}': {name}" for number, name in enumerate(CLASSES)]
        lines += ["    dtype:", "      class_label:", "        names:", *classes, "---"]
        (root / "README.md").write_text("\n".join([*lines, "# pets"]))
