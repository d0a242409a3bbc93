"""A table of pictures: CSV or TSV with a column of paths and, if there are labels, one of classes."""

import csv
from pathlib import Path

from core.data.images import FolderImages
from core.data.labels import numbered
from core.data.sets import ImageFormat, Split
from core.data.splits import files_by_split, named_split
from core.errors import InputError

__all__ = ["PATHS", "Table", "header"]

PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
_LABELS = ("label", "class", "target", "category", "class_name")
_LIMIT = 1 << 20  # characters of a cell; csv's own limit is smaller than some captions


class Table(ImageFormat):
    """``train.csv``, ``val.csv`` and ``test.csv``, or one table, perhaps with a column ``split``; ``.tsv`` likewise.

    The first line names the columns. Paths are relative to the table's folder. Classes are names or numbers, those of
    training for every split.

    Args:
        path, label: Names of the columns; by default the first of the usual names (path, file, ... and label, class,
            ...) that is there.
    """

    def __init__(self, path: str | None = None, label: str | None = None) -> None:
        self.paths = (path,) if path else PATHS
        self.labels = (label,) if label else _LABELS
        self.explicit = label is not None

    def open(self, root: Path, split: Split) -> FolderImages | None:
        if not root.exists():
            raise InputError(f"{root}: no such folder; expected one with train.csv or another .csv or .tsv table")
        tables = _tables(root)
        if not tables:
            raise InputError(f"{root}: holds no .csv or .tsv table")
        train = self._rows(tables, "train")
        rows = train if split == "train" else self._rows(tables, split)
        if not rows:
            if split in ("val", "test"):
                return None
            raise InputError(f"{root}: the table has no rows for {split}")
        folder = root if root.is_dir() else root.parent
        paths = [path for path, _ in rows]
        names = [label for _, label in rows]
        if split == "predict" or any(name is None for name in names):
            return FolderImages(folder, paths, None, [])
        known = [label for _, label in train or rows if label is not None]
        labels, classes = numbered([name for name in names if name is not None], known, str(root))
        return FolderImages(folder, paths, labels, classes)

    def _rows(self, tables: dict[Split, list[Path]], split: Split) -> list[tuple[Path, str | None]]:
        """(path, label) of each row of a split, whether files or a column tell the split."""
        everything = {path: None for files in tables.values() for path in files}
        rows = [(table, *row) for table in everything for row in self._read(table)]
        if any(row[3] for row in rows):
            told = [(path, label, named_split(word or "")) for _, path, label, word in rows]
            wanted = "test" if split == "predict" and any(row[2] == "test" for row in told) else split
            return [(path, label) for path, label, its in told if wanted in ("predict", its)]
        return [(path, label) for table, path, label, _ in rows if table in tables.get(split, [])]

    def _read(self, table: Path) -> list[tuple[Path, str | None, str | None]]:
        columns = header(table)
        path = next((columns[name] for name in self.paths if name in columns), None)
        label = next((columns[name] for name in self.labels if name in columns), None)
        if path is None or (label is None and self.explicit):
            wanted = self.paths if path is None else self.labels
            raise InputError(f"{table}: has the columns {', '.join(columns)}; expected {' or '.join(wanted)}")
        rows = []
        for number, row in enumerate(_lines(table)[1:], 2):
            if not row:
                continue
            if len(row) != len(columns):
                raise InputError(f"{table}: line {number} has {len(row)} cells, the header {len(columns)}")
            its_label = None if label is None else row[label].strip()
            word = row[columns["split"]].strip() if "split" in columns else None
            rows.append((table.parent / row[path], its_label or None, word))
        return rows


def header(table: Path) -> dict[str, int]:
    """The place of each column of a table by its name, in small letters.

    Raises:
        InputError: If the table is not text or is empty.
    """
    lines = _lines(table, 1)
    if not lines:
        raise InputError(f"{table}: empty; expected a first line with the names of the columns")
    return {name.strip().lower(): place for place, name in enumerate(lines[0])}


def _tables(root: Path) -> dict[Split, list[Path]]:
    """The tables of a folder itself (those deeper down are other things) by split."""
    found = files_by_split(root, (".csv", ".tsv"))
    kept = {split: [path for path in files if path == root or path.parent == root] for split, files in found.items()}
    return {split: files for split, files in kept.items() if files}


def _lines(table: Path, count: int | None = None) -> list[list[str]]:
    csv.field_size_limit(_LIMIT)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
            return [row for _, row in zip(range(count), reader, strict=False)] if count else list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a table in UTF-8 ({error})") from error
