"""WebDataset shards (https://github.com/webdataset/webdataset, "the WebDataset format"): pictures or recordings in tar
files, read at random by way of an index.

A sample is the members with one key, the path up to the first dot of the file's name: ``0001.jpg`` and ``0001.cls``.
"""

import contextlib
import hashlib
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image

from core.data.captions import CAPTIONS, gathered, texts
from core.data.images import SUFFIXES, read_image
from core.data.labels import numbered
from core.data.sets import ImageFormat, ItemSet, Split
from core.data.splits import files_by_split
from core.errors import InputError

__all__ = ["PICTURES", "Kind", "Sample", "ShardImages", "ShardItems", "Shards", "expand_braces", "samples_of"]

_VERSION = 2
_LABEL_KEYS = ("label", "cls", "class", "class_id", "class_name")
_LONGEST = 1 << 20  # bytes of a .json, .cls or .txt member


T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What is looked for in tar files.

    Attributes:
        noun: What it is called in messages.
        suffixes: Of its members.
        said: From the fields of a ``.json`` member, or ``{"text": ...}`` of a ``.txt`` one, to what is kept of them.
        index: Part of the names of the kept indices.
    """

    noun: str
    suffixes: frozenset[str]
    said: Callable[[Mapping[str, Any]], tuple[str, ...]]
    index: str = "index"


PICTURES = Kind(
    "pictures",
    SUFFIXES,
    lambda said: next((texts(said[key]) for key in CAPTIONS if texts(said.get(key))), ()),
)


@dataclass(frozen=True)
class Sample:
    """Where an item lies, and what is said of it.

    Attributes:
        tar: The file.
        key: What its members have in common.
        offset, size: Of its content in the file, in bytes.
        label: Its class, or None.
        captions: What the kind keeps of what is said.
    """

    tar: Path
    key: str
    offset: int
    size: int
    label: str | None
    captions: tuple[str, ...] = ()


class ShardItems(ItemSet[list[T]], Generic[T]):
    """Items in tar files, read when they are asked for.

    Args:
        samples: Where each lies.
        known: Classes that occur in training; None for items without labels.
        decode: From the content of a member, and its name, to the item.
    """

    def __init__(self, samples: list[Sample], known: list[str] | None, decode: Callable[[bytes, str], T]) -> None:
        self.samples = samples
        self.decode = decode
        self.labels, self.classes = None, []
        names = [sample.label for sample in samples if sample.label is not None]
        if known is not None and len(names) == len(samples):
            self.labels, self.classes = numbered(names, known, str(samples[0].tar.parent))

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, indices: Sequence[int]) -> list[T]:
        return [self._read(self.samples[index]) for index in indices]

    def name(self, index: int) -> str:
        return f"{self.samples[index].tar.name}/{self.samples[index].key}"

    def _read(self, sample: Sample) -> T:
        name = f"{sample.tar}: {sample.key}"
        try:
            with sample.tar.open("rb") as file:  # opened anew each time: processes must not share a position
                file.seek(sample.offset)
                content = file.read(sample.size)
        except OSError as error:
            raise InputError(f"{name}: not readable ({error})") from error
        return self.decode(content, name)


class ShardImages(ShardItems[Image.Image]):
    """Pictures in tar files.

    Args:
        samples, known: See :class:`ShardItems`.
    """

    def __init__(self, samples: list[Sample], known: list[str] | None) -> None:
        super().__init__(samples, known, _picture)
        self.captions = gathered([sample.captions for sample in samples])


def _picture(content: bytes, name: str) -> Image.Image:
    return read_image(content, name=name)


class Shards(ImageFormat):
    """Tar files ``train-000000.tar`` ..., ``val-...``, ``test-...`` in ``root``, or in folders of these names.

    ``root`` may also be one tar file or a pattern of them, ``FOLDER/train-{000..012}.tar`` or ``FOLDER/*.tar``: all are
    for training then. Labels are numbers or names in ``.cls`` or ``.json`` (a key ``label``, ``cls``,
    ``class``, ...), captions texts in ``.txt`` or ``.json`` (``caption``, ``text``, ...). Each tar is indexed once; the
    index is kept beside it, or else in the user's cache folder.
    """

    def open(self, root: Path, split: Split) -> ShardImages | None:
        found = samples_of(root, split, PICTURES)
        return None if found is None else ShardImages(*found)


def samples_of(root: Path, split: Split, kind: Kind) -> tuple[list[Sample], list[str] | None] | None:
    """The items of a split in tar files, and the classes that occur in training (None where nothing is trained).

    Returns:
        None if there is no such split.

    Raises:
        InputError: If there are no tar files, or they are damaged or hold nothing of the kind.
    """
    files = _shards(root)
    if not files:
        raise InputError(f"{root}: no tar shards; expected train-000000.tar, ... or a pattern of such files")
    if split not in files:
        return None
    samples = _samples(files[split], kind)
    if not samples:
        raise InputError(f"{files[split][0].parent}: the shards for {split} hold no {kind.noun}")
    if split == "predict":
        return samples, None
    train = samples if split == "train" else _samples(files.get("train", files[split]), kind)
    return samples, [sample.label for sample in train if sample.label is not None]


def expand_braces(pattern: str) -> list[str]:
    """The names that ``{000..012}`` and ``{a,b}`` stand for."""
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*))\}", pattern)
    if found is None:
        return [pattern]
    first, last, words = found.groups()
    if first is None:
        inner = words.split(",")
    elif int(last) - int(first) > 1_000_000:
        raise InputError(f"{pattern}: stands for more than a million files")
    else:
        inner = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    start, end = pattern[: found.start()], pattern[found.end() :]
    return [name for word in inner for name in expand_braces(f"{start}{word}{end}")]


def _shards(root: Path) -> dict[Split, list[Path]]:
    if root.exists():
        return files_by_split(root, (".tar",))
    names = expand_braces(str(root))
    if names == [str(root)] and not any(sign in str(root) for sign in "*?["):
        raise InputError(f"{root}: no such folder, tar file or pattern of tar files")
    paths = [Path(path) for name in names for path in (sorted(glob(name)) or [name])]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: no such file ({len(missing)} of {len(paths)} shards of {root} are missing)")
    return {"train": paths, "predict": paths}


def _samples(tars: list[Path], kind: Kind) -> list[Sample]:
    return [Sample(tar, *row) for tar in tars for row in _index(tar, kind)]


_Row = tuple[str, int, int, str | None, tuple[str, ...]]


def _index(tar: Path, kind: Kind) -> list[_Row]:
    """(key, offset, size, label, captions) of each item in a tar, from a kept index if it is of this very file."""
    state = tar.stat()
    stamp = [_VERSION, state.st_size, state.st_mtime_ns]
    places = [tar.with_name(f".{tar.name}.{kind.index}.json"), _cache(tar, kind)]
    for place in places:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(place.read_text(encoding="utf-8"))
            if kept["stamp"] == stamp:
                rows = [
                    (str(key), int(at), int(size), label, texts(said)) for key, at, size, label, said in kept["rows"]
                ]
                if all(at >= 0 and 0 <= size <= state.st_size for _, at, size, _, _ in rows):
                    return rows
    rows = _scan(tar, kind)
    text = json.dumps({"stamp": stamp, "rows": rows})
    for place in places:
        with contextlib.suppress(OSError):
            _write(place, text)
            break
    return rows


def _scan(tar: Path, kind: Kind) -> list[_Row]:
    items: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    captions: dict[str, tuple[str, ...]] = {}
    length = tar.stat().st_size
    try:
        with tarfile.open(tar, "r:") as file:
            for member in file:
                if not member.isreg():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not stem or not ending:
                    continue
                if member.offset_data + member.size > length:
                    raise InputError(f"{tar}: cut short within {member.name}; fetch it again")
                key, ending = f"{folder}/{stem}" if folder else stem, ending.lower()
                if f".{ending}" in kind.suffixes:
                    items.setdefault(key, (member.offset_data, member.size))
                elif ending in ("cls", "json", "txt") and member.size <= _LONGEST:
                    content = file.extractfile(member)
                    label, said = _told(content.read() if content else b"", ending, f"{tar}: {member.name}", kind)
                    if label is not None and (ending == "cls" or key not in labels):
                        labels[key] = label
                    if said and (ending == "txt" or key not in captions):
                        captions[key] = said
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{tar}: not a plain tar file, or damaged ({error}); fetch it again, unpack .gz") from error
    return [(key, at, size, labels.get(key), captions.get(key, ())) for key, (at, size) in items.items()]


def _told(content: bytes, ending: str, name: str, kind: Kind) -> tuple[str | None, tuple[str, ...]]:
    """The label and the captions that a member gives."""
    try:
        text = content.decode("utf-8").strip()
        if ending == "cls":
            return text, ()
        if ending == "txt":
            return None, kind.said({"text": text})
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{name}: not text or JSON ({error})") from error
    if not isinstance(found, dict):
        return (str(found), ()) if isinstance(found, int | str) else (None, ())
    label = next((str(found[key]) for key in _LABEL_KEYS if isinstance(found.get(key), int | str)), None)
    return label, kind.said(found)


def _cache(tar: Path, kind: Kind) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (
        base
        / "sensorium"
        / "shards"
        / f"{hashlib.sha256(str(tar.resolve()).encode()).hexdigest()[:32]}.{kind.index}.json"
    )


def _write(place: Path, text: str) -> None:
    """Write a file by way of a temporary one: other processes may be reading it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=place.parent, prefix=".draft.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(draft, place)
