"""Recordings listed in a file: JSON lines, CSV or TSV, with what is said in each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.data.json_lines import json_lines
from core.data.labels import numbered
from core.data.recordings import AudioFormat, Recordings
from core.data.sets import Split
from core.data.splits import files_by_split, named_split
from core.data.table import cells
from core.data.utterance import Utterance, utterance
from core.errors import InputError

__all__ = ["Manifest"]

_PATHS = ("audio_filepath", "audio", "path", "file", "file_name", "filename", "filepath", "wav")
_LABELS = ("label", "class", "keyword", "category", "command")
_ENDINGS = (".jsonl", ".csv", ".tsv", ".json", ".ndjson")


class _Row(NamedTuple):
    path: Path
    label: str | None
    split: str | None
    said: Utterance


class Manifest(AudioFormat):
    """``train.jsonl``, ``val.jsonl`` and ``test.jsonl``, or one file, perhaps with a field ``split``; ``.csv`` and
    ``.tsv`` likewise. ``root`` may also be such a file.

    Each line of JSON, or row of a table whose first line names the columns, is a recording: its path (``path``,
    ``audio_filepath``, ``file_name``, ...; relative to the manifest's folder), its class, if it has one (``label``,
    ``keyword``, ...), and what :func:`core.data.utterance.utterance` knows of what is said: ``text``, ``segments``,
    ``language``, ``task``, ``prompt``, ``duration``. One with an ``offset`` (which may be 0) is a piece of its file: it
    begins there, and lasts ``duration`` seconds or to the end. That is NeMo's manifest, and the ``metadata.csv`` or
    ``metadata.jsonl`` of Hugging Face's ``audiofolder``.

    Args:
        path, label, text: Names of the fields, where they aren't usual ones.
    """

    def __init__(self, path: str | None = None, label: str | None = None, text: str | None = None) -> None:
        self.paths = (path,) if path else _PATHS
        self.labels = (label,) if label else _LABELS
        self.text = text

    def open(self, root: Path, split: Split) -> Recordings | None:
        if not root.exists():
            raise InputError(f"{root}: no such file or folder; expected train.jsonl or another .jsonl, .csv or .tsv")
        files = {name: _beside(root, paths) for name, paths in files_by_split(root, _ENDINGS).items()}
        if not any(files.values()):
            raise InputError(f"{root}: holds no .jsonl, .csv or .tsv file that lists recordings")
        train = self._rows(files, "train")
        rows = train if split == "train" else self._rows(files, split)
        if not rows:
            if split in ("val", "test"):
                return None
            raise InputError(f"{root}: lists no recordings for {split}")
        folder = root if root.is_dir() else root.parent
        labels: np.ndarray | None = None
        classes: list[str] = []
        if split != "predict" and all(row.label is not None for row in rows):
            known = [row.label for row in train or rows if row.label is not None]
            labels, classes = numbered([row.label or "" for row in rows], known, str(root))
        return Recordings(folder, [row.path for row in rows], labels, classes, [row.said for row in rows])

    def _rows(self, files: dict[Split, list[Path]], split: Split) -> list[_Row]:
        """The rows of a split, whether files or a field tell the split."""
        everything = dict.fromkeys(path for paths in files.values() for path in paths)
        rows = [(path, row) for path in everything for row in self._read(path)]
        if any(row.split for _, row in rows):
            told = [(row, named_split(row.split or "")) for _, row in rows]
            wanted = "test" if split == "predict" and any(its == "test" for _, its in told) else split
            return [row for row, its in told if wanted in ("predict", its)]
        return [row for path, row in rows if path in files.get(split, [])]

    def _read(self, path: Path) -> list[_Row]:
        rows = []
        for line, said in _lines(path):
            where = f"{path}: line {line}"
            place = next((said[name] for name in self.paths if isinstance(said.get(name), str) and said[name]), None)
            if place is None:
                raise InputError(f"{where} names no recording; expected a field {' or '.join(self.paths)}")
            label = next((str(said[name]) for name in self.labels if said.get(name) not in (None, "")), None)
            split = said.get("split")
            row = _Row(path.parent / place, label, str(split) if split else None, utterance(said, where, self.text))
            rows.append(row)
        return rows


def _beside(root: Path, paths: list[Path]) -> list[Path]:
    """The files of a folder itself; those deeper down are other things."""
    return [path for path in paths if path == root or path.parent == root]


def _lines(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """Number and fields of each line."""
    if path.suffix in (".csv", ".tsv"):
        return [(number, dict(row)) for number, row in cells(path)]
    return json_lines(path)
