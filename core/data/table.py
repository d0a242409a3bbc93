"""A table of pictures: CSV or TSV with a column of paths, and perhaps one of classes and one of captions."""

import csv
from pathlib import Path
from typing import NamedTuple

from core.data.captions import CAPTIONS, gathered
from core.data.images import FolderImages
from core.data.labels import numbered
from core.data.sets import ImageFormat, Split
from core.data.splits import files_by_split, named_split
from core.errors import InputError

__all__ = ["PATHS", "Table", "cells", "header"]

PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
_LABELS = ("label", "class", "target", "category", "class_name")
_LIMIT = 1 << 20  # characters of a cell; csv's own limit is smaller than some captions


class _Row(NamedTuple):
    path: Path
    label: str | None
    split: str | None
    caption: str | None


class Table(ImageFormat):
    """``train.csv``, ``val.csv`` and ``test.csv``, or one table, perhaps with a column ``split``; ``.tsv`` likewise.

    The first line names the columns. Paths are relative to the table's folder. Classes are names or numbers, those of
    training for every split. A picture with several captions has several rows.

    Args:
        path, label, caption: Names of the columns; by default the first of the usual names (path, file, ...; label,
            class, ...; caption, text, ...) that is there.
    """

    def __init__(self, path: str | None = None, label: str | None = None, caption: str | None = None) -> None:
        self.paths = (path,) if path else PATHS
        self.labels = (label,) if label else _LABELS
        self.captions = (caption,) if caption else CAPTIONS
        self.explicit = {"label": label is not None, "caption": caption is not None}

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
        if split == "predict" or any(row.label is None for row in rows):
            found = FolderImages(folder, [row.path for row in rows], None, [])
        else:
            known = [row.label for row in train or rows if row.label is not None]
            labels, classes = numbered([row.label or "" for row in rows], known, str(root))
            found = FolderImages(folder, [row.path for row in rows], labels, classes)
        found.captions = gathered([row.caption for row in rows])
        return found

    def _rows(self, tables: dict[Split, list[Path]], split: Split) -> list[_Row]:
        """The rows of a split, whether files or a column tell the split."""
        everything = {path: None for files in tables.values() for path in files}
        rows = [(table, row) for table in everything for row in self._read(table)]
        if any(row.split for _, row in rows):
            told = [(row, named_split(row.split or "")) for _, row in rows]
            wanted = "test" if split == "predict" and any(its == "test" for _, its in told) else split
            return [row for row, its in told if wanted in ("predict", its)]
        return [row for table, row in rows if table in tables.get(split, [])]

    def _read(self, table: Path) -> list[_Row]:
        columns = header(table)
        path = self._column(table, columns, self.paths, True)
        label = self._column(table, columns, self.labels, self.explicit["label"])
        caption = self._column(table, columns, self.captions, self.explicit["caption"])
        assert path is not None
        rows = []
        for _, row in _full_rows(table, columns):
            its_label, its_split, its_caption = (
                None if place is None else row[place].strip() or None
                for place in (label, columns.get("split"), caption)
            )
            rows.append(_Row(table.parent / row[path], its_label, its_split, its_caption))
        return rows

    @staticmethod
    def _column(table: Path, columns: dict[str, int], names: tuple[str, ...], needed: bool) -> int | None:
        found = next((columns[name] for name in names if name in columns), None)
        if found is None and needed:
            raise InputError(f"{table}: has the columns {', '.join(columns)}; expected {' or '.join(names)}")
        return found


def header(table: Path) -> dict[str, int]:
    """The place of each column of a table by its name, in small letters.

    Raises:
        InputError: If the table is not text or is empty.
    """
    lines = _lines(table, 1)
    if not lines:
        raise InputError(f"{table}: empty; expected a first line with the names of the columns")
    return {name.strip().lower(): place for place, name in enumerate(lines[0])}


def cells(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The number of each row's line, and its cells that aren't empty by the names of their columns, in small letters.

    Raises:
        InputError: If the table is not text, is empty, or has rows of different lengths.
    """
    columns = header(table)
    return [
        (number, {name: row[place].strip() for name, place in columns.items() if row[place].strip()})
        for number, row in _full_rows(table, columns)
    ]


def _full_rows(table: Path, columns: dict[str, int]) -> list[tuple[int, list[str]]]:
    """The rows after the header, but for empty ones, with their numbers."""
    rows = []
    for number, row in enumerate(_lines(table)[1:], 2):
        if row and len(row) != len(columns):
            raise InputError(f"{table}: line {number} has {len(row)} cells, the header {len(columns)}")
        rows += [(number, row)] if row else []
    return rows


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
