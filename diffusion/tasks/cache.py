"""Latents on disk: what an encoder says of the pictures of a data set, computed once, in files that can be resumed.

A folder has ``cache.json``, which says what the latents are and what they were computed by, and for each split numbered
files of safetensors: ``moments`` (rows, views, M, h, w) and, where the pictures have classes, ``label`` (rows,). The
second view, where there is one, is the picture mirrored.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.data.order import keys
from core.data.sets import ItemSet, Split
from core.errors import InputError
from core.train.folders import write_text
from core.weights import write_safetensors
from core.weights.files import read_json
from diffusion.latents import Latents

__all__ = ["LatentSet", "fingerprint", "precompute"]

FILE, FORMAT = "cache.json", 1
Progress = Callable[[str, int, int], None]  # split, pictures that are done, all of them


class LatentSet(ItemSet[list[Tensor]]):
    """A split of a folder of latents; rows are read from the disk when they are asked for.

    Args:
        folder: the folder.
        split: "train", "val" or "test".
        said: the contents of its ``cache.json``.

    Raises:
        InputError: if a file is missing, because the computing was interrupted, or damaged.
    """

    noun = "latents"

    def __init__(self, folder: Path, split: str, said: dict[str, Any]) -> None:
        self.count, self.rows = int(said["splits"][split]), int(said["rows"])
        self.classes = list(said["classes"])
        self.views = int(said["views"])
        self.files = [_file(folder, split, number) for number in range(-(-self.count // self.rows))]
        missing = [file for file in self.files if not file.is_file()]
        if missing:
            raise InputError(
                f"{folder}: {len(missing)} of {len(self.files)} files of {split} are missing: "
                "run the same sensorium precompute again, it goes on where it was stopped"
            )
        self._opened: dict[int, Any] = {}
        self.labels = self._labels() if said["labelled"] else None

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int]) -> list[Tensor]:
        """The moments of all views of some pictures, each (views, M, h, w)."""
        places = [divmod(index, self.rows) for index in indices]
        return [self._shard(file).get_slice("moments")[row] for file, row in places]

    def name(self, index: int) -> str:
        return str(index)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files, which every process opens for itself."""
        return {**self.__dict__, "_opened": {}}

    def _shard(self, number: int) -> Any:
        if number not in self._opened:
            try:
                self._opened[number] = safe_open(self.files[number], "pt")
            except (OSError, SafetensorError) as error:
                raise InputError(f"{self.files[number]}: damaged ({error}); delete it and compute it again") from error
        return self._opened[number]

    def _labels(self) -> np.ndarray:
        parts = [self._shard(number).get_tensor("label").numpy() for number in range(len(self.files))]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def fingerprint(said: Any) -> str:
    """The SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def read_cache(folder: Path) -> dict[str, Any]:
    """What a folder of latents says of itself.

    Raises:
        InputError: if it is none.
    """
    if not (folder / FILE).is_file():
        raise InputError(f"{folder}: no {FILE} in it; expected a folder that sensorium precompute wrote")
    said = read_json(folder / FILE)
    if said.get("format") != FORMAT:
        raise InputError(f"{folder}: latents of format {said.get('format')}, this version reads {FORMAT}")
    return said


@torch.inference_mode()
def precompute(
    data: Any,
    latents: Latents,
    folder: Path,
    config: dict[str, Any],
    splits: Sequence[Split] = ("train", "val"),
    mirrored: bool = False,
    dtype: torch.dtype = torch.float32,
    batch: int = 32,
    rows: int = 1024,
    device: torch.device | str = "cpu",
    progress: Progress = lambda split, done, total: None,
) -> None:
    """Encode the pictures of a data set into a folder; files that are there are kept.

    Args:
        data: with ``items(split)`` and ``preprocess``, such as ``vision.tasks.data.ImageData``.
        latents: whose moments they are.
        folder: made if missing.
        config: of the data: whatever else would make the latents others.
        splits: what is encoded; those that the data doesn't have are passed over.
        mirrored: whether each picture is encoded mirrored, too.
        dtype: of the files.
        batch: pictures at once.
        rows: of a file.
        device: where to encode.
        progress: told after each batch.

    Raises:
        InputError: if the folder has latents of another configuration.
    """
    sets = {split: items for split in splits if (items := _found(data, split)) is not None}
    first = next(iter(sets.values()))
    said = {
        "format": FORMAT,
        "latents": latents.identity(),
        "config": {**config, "views": 2 if mirrored else 1, "dtype": str(dtype), "rows": rows},
        "views": 2 if mirrored else 1,
        "rows": rows,
        "splits": {split: len(items) for split, items in sets.items()},
        "classes": list(first.classes),
        "labelled": first.labels is not None,
    }
    said["hash"] = fingerprint(said)
    _agree(folder, said)
    write_text(folder / FILE, json.dumps(said, indent=1) + "\n")
    for split, items in sets.items():
        for start in range(0, len(items), rows):
            numbers = range(start, min(start + rows, len(items)))
            file = _file(folder, split, start // rows)
            if not file.is_file():
                write_safetensors(file, _encoded(data, items, latents, numbers, mirrored, dtype, batch, device))
            progress(split, numbers.stop, len(items))


def _encoded(
    data: Any,
    items: ItemSet[Any],
    latents: Latents,
    numbers: range,
    mirrored: bool,
    dtype: torch.dtype,
    batch: int,
    device: torch.device | str,
) -> dict[str, Tensor]:
    """The contents of one file."""
    moments, labels = [], []
    for first in range(numbers.start, numbers.stop, batch):
        wanted = np.arange(first, min(first + batch, numbers.stop))
        pictures, taken = items.take(wanted.tolist())
        images = data.preprocess(pictures, keys(0, 0, wanted)).to(device)
        views = [images, images.flip(-1)] if mirrored else [images]
        moments.append(torch.stack([latents.moments(view).to("cpu", dtype) for view in views], 1))
        if items.labels is not None:
            labels.append(torch.from_numpy(items.labels[taken]))
    found = {"moments": torch.cat(moments)}
    return {**found, "label": torch.cat(labels)} if labels else found


def _found(data: Any, split: Split) -> ItemSet[Any] | None:
    try:
        items: ItemSet[Any] = data.items(split)
    except InputError:
        if split == "train":
            raise
        return None
    return items


def _agree(folder: Path, said: dict[str, Any]) -> None:
    """See that latents that are there were computed as these are going to be."""
    if not (folder / FILE).exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder}: has something else in it; choose a new folder")
        return
    before = read_cache(folder)
    if before.get("hash") != said["hash"]:
        differ = ", ".join(name for name in said if name != "hash" and before.get(name) != said[name])
        raise InputError(f"{folder}: has latents of another configuration ({differ} differ): choose a new folder")


def _file(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:05d}.safetensors"
