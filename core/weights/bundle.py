"""A bundle: a folder with ``config.json`` and ``model.safetensors`` that needs nothing else to run."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from core.errors import InputError

from .files import read_json, sync
from .formats import read, write_safetensors
from .remap import Table, build
from .source import Source

__all__ = ["Bundle", "Makers", "is_bundle", "open_bundle", "read_bundle", "save_bundle"]

FORMAT = 1
CONFIG, WEIGHTS, KEPT = "config.json", "model.safetensors", "source.safetensors"
EXTRAS = (".json", ".txt", ".model", ".tiktoken", ".md")  # data, never code

Makers = Mapping[str, Callable[[dict[str, Any]], nn.Module]]
"""The classes that may be built, by name: each makes a model from its plain config."""

_OURS = Table("sensorium", {"{path}": "{path}"})


@dataclass(frozen=True)
class Bundle:
    """What a bundle says about its model: the contents of ``config.json``.

    Attributes:
        model: name of the model's class; it is looked up in an allowlist, never imported.
        config: of the class, as plain data.
        preprocessing: of what goes in: sizes, mean and standard deviation, sampling rate.
        tokenizer: which one, or the file in the bundle that it is read from.
        labels: of the classes, in order.
        licence: of the weights.
        source: how the weights were imported, for the way back.
        notes: anything else that is plain data.
    """

    model: str
    config: dict[str, Any]
    preprocessing: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    licence: str = ""
    source: Source | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def save_bundle(folder: Path | str, model: nn.Module, bundle: Bundle, files: Mapping[str, Path] | None = None) -> None:
    """Write a bundle; the folder appears, or replaces an older bundle, when all of it is on the disk.

    Args:
        folder: where; its parents are made.
        model: its ``state_dict()`` is saved.
        bundle: what to say about it.
        files: data files to copy into it, such as ``{"tokenizer.json": path}``.

    Raises:
        InputError: if the folder holds something else, or a file has no plain name of a data file.
    """
    folder = Path(folder)
    files = dict(files or {})
    for name in files:
        if name in (CONFIG, WEIGHTS, KEPT) or Path(name).name != name or not name.endswith(EXTRAS):
            raise InputError(
                f"a bundle can't take a file called {name!r}: expected a plain name in {', '.join(EXTRAS)}"
            )
    if folder.exists() and not (is_bundle(folder) or (folder.is_dir() and not any(folder.iterdir()))):
        raise InputError(f"{folder} is there and is no bundle: give another name, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        draft = room / "new"
        draft.mkdir()
        _write(draft, model, bundle, files)
        _exchange(draft, folder, room / "old")
    finally:
        shutil.rmtree(room)


def read_bundle(folder: Path | str) -> Bundle:
    """Read what a bundle says, without its weights.

    Raises:
        InputError: if it is no bundle, a damaged one, or one of a later version.
    """
    folder = Path(folder)
    data = read_json(folder / CONFIG)
    version = data.pop("sensorium_bundle", None)
    if version != FORMAT:
        raise InputError(f"{folder} is no bundle of version {FORMAT}: its {CONFIG} says {version!r}")
    source = data.pop("source", None)
    kept = read(folder / KEPT).tensors if (folder / KEPT).exists() else {}
    try:
        bundle = Bundle(**data, source=None if source is None else Source.from_json(source, kept))
        bundle = replace(bundle, labels=tuple(bundle.labels))
    except TypeError as error:
        raise InputError(f"{folder / CONFIG} is damaged: {str(error).removeprefix('Bundle.__init__() ')}") from error
    if not isinstance(bundle.model, str) or not isinstance(bundle.config, dict):
        raise InputError(f"{folder / CONFIG} is damaged: expected the name of a model and its config")
    return bundle


def open_bundle(folder: Path | str, makers: Makers) -> tuple[nn.Module, Bundle]:
    """Build the model of a bundle and fill it.

    Args:
        folder: the bundle.
        makers: the classes that may be built.

    Raises:
        InputError: if the class isn't among them, its config doesn't fit it, or the weights don't fit the model.
    """
    folder = Path(folder)
    bundle = read_bundle(folder)
    maker = makers.get(bundle.model)
    if maker is None:
        raise InputError(f"{folder} holds a {bundle.model!r}: expected one of {', '.join(sorted(makers))}")
    model, _ = build(lambda: maker(bundle.config), _OURS, read(folder / WEIGHTS).tensors)
    return model, bundle


def is_bundle(folder: Path | str) -> bool:
    """Whether a folder is a bundle, of whatever version."""
    path = Path(folder) / CONFIG
    try:
        return path.is_file() and "sensorium_bundle" in read_json(path)
    except InputError:
        return False


def _write(draft: Path, model: nn.Module, bundle: Bundle, files: Mapping[str, Path]) -> None:
    source = bundle.source
    data = {"sensorium_bundle": FORMAT, **{name: getattr(bundle, name) for name in bundle.__dataclass_fields__}}
    data["source"] = None if source is None else source.to_json()
    for name, path in files.items():
        shutil.copyfile(path, draft / name)
        sync(draft / name)
    if source is not None and source.kept:
        write_safetensors(draft / KEPT, source.kept)
    write_safetensors(draft / WEIGHTS, model.state_dict())
    with (draft / CONFIG).open("w", encoding="utf-8") as file:
        json.dump(data, file, indent=2, ensure_ascii=False)
        file.write("\n")
    sync(draft / CONFIG)
    sync(draft)


def _exchange(new: Path, place: Path, old: Path) -> None:
    """Put a folder in its place; should that fail, the old one stays."""
    had = place.exists()
    if had:
        os.rename(place, old)
    try:
        os.rename(new, place)
    except OSError:
        if had:
            os.rename(old, place)
        raise
    sync(place.parent)
