"""Read weights of any public format, write safetensors. No file executes anything."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.errors import InputError

from .ctranslate2 import looks_like_ctranslate2, read_ctranslate2
from .files import read_json, replacing
from .torchscript import looks_like_torchscript, read_torchscript

__all__ = ["Checkpoint", "read", "weight_files", "write_safetensors"]

PREFERRED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "model.bin",
)
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
INDEX = ".index.json"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a file and what it says beside them.

    Attributes:
        path: the file (of a sharded checkpoint, the index).
        format: ``"safetensors"``, ``"torch"``, ``"torchscript"`` or ``"ctranslate2"``.
        tensors: by their names; memory-mapped where the format allows it, so that reading costs nothing before use.
        meta: plain data: the metadata of safetensors, the ``dims`` of an OpenAI checkpoint, the spec of CTranslate2.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)


def weight_files(names: Iterable[str]) -> list[str]:
    """Choose among the files of one folder those that hold its weights: the best format, all shards with their index.

    Args:
        names: of the files; those in folders below are not looked at.

    Returns:
        One file, or an index and its shards; nothing if there are no weights.

    Raises:
        InputError: if several single files could be meant.
    """
    here = sorted({name for name in names if "/" not in name})
    for name in PREFERRED:
        if name not in here:
            continue
        stem, suffix = _stem(name)
        shards = [n for n in here if re.fullmatch(rf"{re.escape(stem)}-\d+-of-\d+{re.escape(suffix)}", n)]
        if not name.endswith(INDEX):
            return [name]
        if shards:
            return [name, *shards]
    for suffix in SUFFIXES:
        found = [name for name in here if name.endswith(suffix)]
        if len(found) > 1:
            raise InputError(f"which of {', '.join(found[:8])} is meant? Name the file itself")
        if found:
            return found
    return []


def _stem(name: str) -> tuple[str, str]:
    file = PurePosixPath(name.removesuffix(INDEX))
    return file.stem, file.suffix


def read(path: Path | str, key: str | None = None) -> Checkpoint:
    """Read a weights file, or the weights of a folder; the format is found by looking, not by the name.

    Args:
        path: a file (safetensors, PyTorch, TorchScript, CTranslate2, an index of shards) or a folder with one of them.
        key: for a PyTorch file that holds several sets of weights, the name of the one that is meant.

    Raises:
        InputError: if there is nothing of the kind, or it is damaged, or a pickle that isn't weights.
    """
    path = Path(path)
    if path.is_dir():
        files = weight_files(file.name for file in path.iterdir())
        if not files:
            raise InputError(f"{path} holds no weights: expected {PREFERRED[0]}, pytorch_model.bin or model.bin")
        path /= files[0]
    if path.name.endswith(INDEX):
        return _read_shards(path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    if not head:
        raise InputError(f"{path} is empty: fetch it again")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _read_torch(path, key)
    if looks_like_ctranslate2(head):
        return Checkpoint(path, "ctranslate2", *read_ctranslate2(path))
    raise InputError(f"{path} is not a weights file: expected safetensors, PyTorch (.pt, .pth, .bin) or CTranslate2")


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Checkpoint(path, "safetensors", tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not readable as safetensors ({_line(error)}): fetch it again") from error


def _read_torch(path: Path, key: str | None) -> Checkpoint:
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped and looks_like_torchscript(path):
            return Checkpoint(path, "torchscript", read_torchscript(path))
        if zipped:
            _check_zip(path)
        with warnings.catch_warnings(action="ignore"):  # what is wrong is said once, below
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it asks for {named[1]}" if named else _line(error)
        raise InputError(f"{path} is refused: it holds more than weights ({why}), which could run code") from error
    except InputError:
        raise
    # a damaged pickle can fail in any way that a pickle can
    except Exception as error:
        raise InputError(f"{path} is not readable as a PyTorch file ({_line(error)}): fetch it again") from error
    if _is_state(data) and key is None:
        return Checkpoint(path, "torch", dict(data))
    sets = {name: dict(value) for name, value in data.items() if _is_state(value)} if isinstance(data, dict) else {}
    if key is None and len(sets) == 1:
        key = next(iter(sets))
    if key not in sets:
        if sets:
            raise InputError(f"{path} holds several sets of weights: say which of {', '.join(map(str, sets))}")
        raise InputError(f"{path} holds no weights: expected tensors by name, found {type(data).__name__}")
    meta = {str(name): value for name, value in data.items() if name not in sets and _is_plain(value)}
    return Checkpoint(path, "torch", sets[key], meta)


def _check_zip(path: Path) -> None:
    """PyTorch stores its archives as they are: one that would grow was made by something else."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise InputError(f"{path} is refused: a compressed archive is no PyTorch file")


def _read_shards(index: Path) -> Checkpoint:
    data = read_json(index)
    places = data.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(v, str) for v in places.values()):
        raise InputError(f"{index} has no weight_map: expected tensor names and the files that they are in")
    tensors: dict[str, Tensor] = {}
    kind = ""
    for name in sorted(set(places.values())):
        if name != PurePosixPath(name).name or name.endswith(INDEX):
            raise InputError(f"{index} points to {name!r}: shards must lie beside it")
        shard = read(index.parent / name)
        kind = shard.format
        tensors |= shard.tensors
    strays = sorted(tensors.keys() ^ places.keys())
    if strays:
        raise InputError(
            f"{index} and its shards disagree on {len(strays)} tensors, such as {strays[0]}: fetch it again"
        )
    return Checkpoint(index, kind, tensors)


def write_safetensors(path: Path | str, tensors: Mapping[str, Tensor], meta: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, atomically.

    Args:
        path: the file; a whole one stays until the new one is whole.
        tensors: by name; those that share memory are written each in full.
        meta: text to keep in the header.
    """
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        tensor = tensor.detach().contiguous()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    with replacing(Path(path)) as draft:
        save_file(apart, draft, {"format": "pt", **(meta or {})})


def _is_state(data: Any) -> bool:
    return (
        isinstance(data, dict)
        and bool(data)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in data.items())
    )


def _is_plain(data: Any, depth: int = 3) -> bool:
    if isinstance(data, dict):
        return depth > 0 and all(isinstance(k, str) and _is_plain(v, depth - 1) for k, v in data.items())
    if isinstance(data, list | tuple):
        return depth > 0 and all(_is_plain(v, depth - 1) for v in data)
    return data is None or isinstance(data, str | int | float | bool)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:160] or type(error).__name__
