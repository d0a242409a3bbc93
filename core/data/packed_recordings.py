"""Recordings that lie together in larger files: WebDataset's tar shards, Hugging Face's parquet."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from core.data.audio import read_audio
from core.data.parquet import ParquetItems, columns_of, rows_of
from core.data.recordings import SOUNDS, AudioFormat, AudioSet
from core.data.sets import Split
from core.data.shards import Kind, ShardItems, samples_of
from core.data.utterance import FIELDS, utterance

__all__ = ["AudioParquet", "AudioShards"]

_COLUMNS = ("audio", "speech", "file", "sound")
_KIND = Kind("recordings", SOUNDS, lambda said: (json.dumps(_told(said)),), "sounds")


class AudioShards(AudioFormat):
    """Tar files of recordings, ``0001.flac`` and beside it ``0001.txt`` (the text), ``0001.cls`` (a class) or
    ``0001.json`` (what :func:`core.data.utterance.utterance` knows); named and laid as
    :class:`core.data.shards.Shards` says.
    """

    def open(self, root: Path, split: Split) -> AudioSet | None:
        found = samples_of(root, split, _KIND)
        if found is None:
            return None
        samples, known = found
        items = ShardItems(samples, known, _decoded)
        items.noun = "recordings"
        if any(sample.captions for sample in samples):
            items.captions = [
                utterance(json.loads(sample.captions[0]) if sample.captions else {}, f"{sample.tar}: {sample.key}")
                for sample in samples
            ]
        return items


class AudioParquet(AudioFormat):
    """``data/train-00000-of-00002.parquet`` and its like: a column of recordings (bytes of a file), perhaps one of
    labels, and those that :func:`core.data.utterance.utterance` knows: text, language, ...

    Args:
        audio, label, text: Names of the columns; by default what the files tell, or usual names.
    """

    def __init__(self, audio: str | None = None, label: str | None = None, text: str | None = None) -> None:
        self.audio, self.label, self.text = audio, label, text

    def open(self, root: Path, split: Split) -> AudioSet | None:
        columns = columns_of(root, split, self.audio, self.label, "Audio", _COLUMNS)
        if columns is None:
            return None
        items = ParquetItems(root if root.is_dir() else root.parent, columns, _decoded)
        items.noun = "recordings"
        rows = rows_of(columns, (*FIELDS, *([self.text] if self.text else [])))
        if rows:
            where = str(root)
            items.captions = [utterance(row, f"{where}: row {number}", self.text) for number, row in enumerate(rows)]
        return items


def _decoded(source: bytes | Path, name: str) -> Tensor:
    return read_audio(source, name=name)


def _told(said: Mapping[str, Any]) -> dict[str, Any]:
    """Of the fields of a member those that mean something here."""
    return {name: said[name] for name in FIELDS if name in said}
