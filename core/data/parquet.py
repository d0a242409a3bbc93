"""A Hugging Face dataset folder: pictures or recordings as bytes in parquet files, with labels and what is said."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
import yaml
from PIL import Image

from core.data.captions import CAPTIONS, gathered
from core.data.images import read_image
from core.data.labels import numbered
from core.data.sets import ImageFormat, ItemSet, Split
from core.data.splits import files_by_split
from core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Columns", "Parquet", "ParquetImages", "ParquetItems", "columns_of", "rows_of"]

T = TypeVar("T")

_IMAGES = ("image", "img", "picture", "photo")
_LABELS = ("label", "labels", "fine_label", "class", "target")
_MEMORY = 1 << 30  # bytes of a column that a process may keep at hand
_ROW_GROUPS = 4  # that it keeps of a larger one


class ParquetItems(ItemSet[list[T]], Generic[T]):
    """Pictures or recordings in a column of parquet files.

    A row group (100 items, as ``datasets`` writes them) is the least that parquet can read. Up to 1 GiB, every
    process keeps what it has read; of a larger set the latest few row groups, so that shuffled reading reads nearly a
    row group for each item: tar shards are faster then.

    Args:
        root: Folder of the data set; items that are only named lie in it.
        columns: Where they are.
        decode: From bytes or a file, and a name for errors, to the item.
    """

    def __init__(self, root: Path, columns: "Columns", decode: Callable[[bytes | Path, str], T]) -> None:
        self.root, self.files, self.column = root, columns.files, columns.item
        self.labels, self.classes = columns.labels, columns.classes
        self.decode = decode
        sizes = []
        total = 0
        self._groups: list[tuple[Path, int]] = []
        for path in self.files:
            metadata = _open(path).metadata
            for group in range(metadata.num_row_groups):
                self._groups.append((path, group))
                sizes.append(metadata.row_group(group).num_rows)
                total += metadata.row_group(group).total_byte_size
        self._ends = np.cumsum(sizes)
        self._held: dict[int, pa.ChunkedArray] = {}
        self._most = len(sizes) if total <= _MEMORY else _ROW_GROUPS

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}}

    def read(self, indices: Sequence[int]) -> list[T]:
        found = {index: self._read(index) for index in sorted(set(indices))}  # a row group after the other
        return [found[index] for index in indices]

    def name(self, index: int) -> str:
        group = int(np.searchsorted(self._ends, index, side="right"))
        path = self._groups[group][0]
        first = self._groups.index((path, 0))
        start = int(self._ends[first - 1]) if first else 0
        return f"{path.name}/{index - start}"

    def _read(self, index: int) -> T:
        group = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[group - 1]) if group else 0
        cell = self._column(group)[index - start].as_py()
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content:
            return self.decode(content, self.name(index))
        if not path:
            raise InputError(f"{self.name(index)}: nothing in this row")
        place = (self.root / path).resolve()
        if not place.is_relative_to(self.root.resolve()):
            raise InputError(f"{self.name(index)}: names a file outside of the data set ({path})")
        return self.decode(place, str(place))

    def _column(self, group: int) -> "pa.ChunkedArray":
        if group not in self._held:
            path, number = self._groups[group]
            try:
                # without threads: those of a pool don't live on in processes that are forked
                column = _open(path).read_row_group(number, columns=[self.column], use_threads=False).column(0)
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: damaged in row group {number} ({error})") from error
            if len(self._held) >= self._most:
                self._held.pop(next(iter(self._held)))
            self._held[group] = column
        return self._held[group]


class ParquetImages(ParquetItems[Image.Image]):
    """Pictures in a column of parquet files.

    Args:
        root, columns: See :class:`ParquetItems`.
    """

    def __init__(self, root: Path, columns: "Columns") -> None:
        super().__init__(root, columns, _picture)


def _picture(source: bytes | Path, name: str) -> Image.Image:
    return read_image(source, name=name)


class Columns(NamedTuple):
    """What a split's parquet files hold.

    Attributes:
        files: The files.
        item: Name of the column of pictures or recordings: bytes, or a struct of ``bytes`` and ``path``.
        labels: (N,) int64, or None.
        classes: Names of the classes.
        features: What is told of the columns: {name: {"_type": ..., "names": [...]}}.
        names: Of all columns.
    """

    files: list[Path]
    item: str
    labels: np.ndarray | None
    classes: list[str]
    features: dict[str, Any]
    names: list[str]


class Parquet(ImageFormat):
    """``data/train-00000-of-00002.parquet`` and its like: a column of pictures, perhaps one of labels, and one of
    captions, a text or a list of texts.

    Which columns these are, and the names of the classes, is said by the files' metadata, ``dataset_info.json`` or the
    head of ``README.md``, in this order; else by usual names (image, img, ...; label, labels, ...; caption, text, ...).

    Args:
        image, label, caption: Names of the columns.
    """

    def __init__(self, image: str | None = None, label: str | None = None, caption: str | None = None) -> None:
        self.image = image
        self.label = label
        self.caption = caption

    def open(self, root: Path, split: Split) -> ParquetImages | None:
        columns = columns_of(root, split, self.image, self.label, "Image", _IMAGES)
        if columns is None:
            return None
        found = ParquetImages(root if root.is_dir() else root.parent, columns)
        caption = _pick(self.caption, columns.names, "Caption", CAPTIONS, columns.features)
        if caption is not None:
            found.captions = gathered(_cells(columns.files, caption))
        return found


def columns_of(
    root: Path, split: Split, item: str | None, label: str | None, kind: str, usual: tuple[str, ...]
) -> Columns | None:
    """Which columns of a split's files hold the items and their classes.

    Args:
        root: Folder of the data set, or one file.
        split: Of the data set.
        item, label: Names of the columns; None for those that the files tell, or the usual ones.
        kind: What Hugging Face calls the items.
        usual: Usual names of their column.

    Returns:
        None if there is no such split.

    Raises:
        InputError: If there are no such files, or no such columns in them.
    """
    if not root.exists():
        raise InputError(f"{root}: no such folder; expected one with .parquet files")
    files = files_by_split(root, (".parquet",))
    if not files:
        raise InputError(f"{root}: holds no .parquet files")
    if split not in files:
        return None
    schema = _open(files[split][0]).schema_arrow
    features = _features(schema, root)
    found = _pick(item, schema.names, kind, usual, features)
    if found is None:
        what = {"Image": "pictures", "Audio": "recordings"}[kind]
        raise InputError(f"{files[split][0]}: has the columns {', '.join(schema.names)}; expected one of {what}")
    place = _pick(label, schema.names, "ClassLabel", _LABELS, features)
    labels: np.ndarray | None = None
    classes: list[str] = []
    if place is not None and split != "predict":
        values = _cells(files[split], place)
        train = values if split == "train" else _cells(files.get("train", files[split]), place)
        labels, classes = _numbers(values, train, (features.get(place) or {}).get("names"), str(root))
    return Columns(files[split], found, labels, classes, features, list(schema.names))


def rows_of(columns: Columns, wanted: Sequence[str]) -> list[Mapping[str, Any]]:
    """The cells of some columns, those that there are, by row."""
    names = [name for name in wanted if name in columns.names]
    cells = [_cells(columns.files, name) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def _pick(
    wanted: str | None, names: list[str], kind: str, usual: tuple[str, ...], features: dict[str, Any]
) -> str | None:
    if wanted is not None:
        if wanted not in names:
            raise InputError(f"no column {wanted} in the parquet files; they have {', '.join(names)}")
        return wanted
    told = [name for name in names if isinstance(features.get(name), dict) and features[name].get("_type") == kind]
    return next((name for name in (*told, *usual) if name in names), None)


def _numbers(
    values: list[Any], train: list[Any], names: list[str] | None, where: str
) -> tuple[np.ndarray | None, list[str]]:
    if all(value in (None, -1) for value in values):  # how a test split says that its labels are kept back
        return None, list(names or [])
    if any(not isinstance(value, int | str) or value == -1 for value in values):
        raise InputError(f"{where}: some rows have no label, or one that is neither a number nor a name")
    if not names:
        return numbered([str(value) for value in values], [str(value) for value in train], where)
    labels = np.array([value if isinstance(value, int) else names.index(value) for value in values], np.int64)
    if labels.min() < 0 or labels.max() >= len(names):
        raise InputError(f"{where}: has class {labels.max()}, but only {len(names)} classes are named")
    return labels, list(names)


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a parquet file, or damaged ({' '.join(str(error).split())})") from error


def _cells(files: list[Path], column: str) -> list[Any]:
    cells: list[Any] = []
    for path in files:
        file = _open(path)
        if column not in file.schema_arrow.names:
            raise InputError(f"{path}: has no column {column}, which other files have")
        cells += file.read(columns=[column], use_threads=False).column(0).to_pylist()
    return cells


def _features(schema: "pa.Schema", root: Path) -> dict[str, Any]:
    """What is known of the columns: {name: {"_type": ..., "names": [...]}}."""
    try:
        told = (schema.metadata or {}).get(b"huggingface")
        if told:
            return json.loads(told)["info"]["features"]
        info = root / "dataset_info.json"
        if info.is_file():
            return json.loads(info.read_text(encoding="utf-8"))["features"] or {}
        readme = root / "README.md"
        if readme.is_file():
            return _readme_features(readme.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, yaml.YAMLError) as error:
        raise InputError(f"{root}: what is said of the columns can't be understood ({error})") from error
    return {}


def _readme_features(text: str) -> dict[str, Any]:
    parts = text.split("---", 2)
    head = yaml.safe_load(parts[1]) if text.startswith("---") and len(parts) == 3 else None
    info = (head or {}).get("dataset_info") or {}
    info = info[0] if isinstance(info, list) else info
    features: dict[str, Any] = {}
    for column in info.get("features") or []:
        kind = column.get("dtype")
        if kind in ("image", "audio"):
            features[column["name"]] = {"_type": kind.title()}
        elif isinstance(kind, dict) and "audio" in kind:  # with a sampling rate
            features[column["name"]] = {"_type": "Audio"}
        elif isinstance(kind, dict) and "class_label" in kind:
            names = kind["class_label"]["names"]
            ordered = [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names
            features[column["name"]] = {"_type": "ClassLabel", "names": ordered}
    return features
