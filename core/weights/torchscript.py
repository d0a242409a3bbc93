"""Read the tensors of a TorchScript archive (``torch.jit.save``) without running any of it.

The file is a zip: ``data.pkl`` holds the tree of modules with their attributes, ``data/N`` the bytes of the tensors as
they are, ``code/`` a program that isn't looked at. The pickle is read as data: its opcodes make lists, tuples and
records here, and nothing that they name is ever imported or called. Format: PyTorch, ``torch/csrc/jit/serialization``.
"""

import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["looks_like_torchscript", "read_torchscript"]

MAX_PICKLE = 64 * 2**20  # bytes; CLIP's has a quarter of a megabyte
MAX_ENTRIES = 200_000  # tensors and modules
MAX_DEPTH = 64  # modules in modules
HEADER = 30  # bytes of a zip entry before its name

DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Named:
    """A class or function by its name."""

    name: str


@dataclass
class Made:
    """What a call would have made: an object with its state, or the result of a function."""

    by: Any
    args: Any
    state: Any = field(default_factory=dict)


def looks_like_torchscript(path: Path) -> bool:
    """Whether a zip file is a TorchScript archive.

    Raises:
        zipfile.BadZipFile: if it is no zip file.
    """
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return the parameters and buffers of a TorchScript archive by their names, memory-mapped.

    Raises:
        InputError: if it is damaged, or holds anything that ``torch.jit.save`` doesn't write.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            root = next((name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")), None)
            if root is None or entries[root + "data.pkl"].file_size > MAX_PICKLE:
                raise InputError(f"{path} has no data.pkl of a sensible size: not a TorchScript archive")
            order = archive.read(root + "byteorder") if root + "byteorder" in entries else b"little"
            if order != b"little":
                raise InputError(f"{path} was written on a big-endian machine: save it again on a common one")
            _check_stored(path, entries[root + "data.pkl"])
            tree = _evaluate(archive.read(root + "data.pkl"))
        content = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        stored = {name.removeprefix(root + "data/"): entry for name, entry in entries.items() if name.startswith(root)}
        tensors = {name: _tensor(made, path, content, stored) for name, made in _tensors(tree, "", 0, [0])}
    except InputError:
        raise
    # a damaged file can fail in any way that a zip or a pickle can
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{path} is not readable as a TorchScript archive ({reason}): fetch it again") from error
    if not tensors:
        raise InputError(f"{path} holds no weights: it is a TorchScript archive of something else")
    return tensors


def _evaluate(data: bytes) -> Any:
    """Evaluate a pickle to plain data, :class:`Named` and :class:`Made`."""
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[int, Any] = {}
    for op, arg, _ in pickletools.genops(data):
        match op.name:
            case "PROTO":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                below.append(stack)
                stack = []
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(op.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE" | "APPENDS" | "SETITEMS":
                items, stack = stack, below.pop()
                if op.name == "TUPLE":
                    stack.append(tuple(items))
                elif op.name == "APPENDS":
                    stack[-1].extend(items)
                else:
                    _set(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], iter([(key, value)]))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[op.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(arg)
            case "GLOBAL":
                stack.append(Named(str(arg)))
            case "BINPUT" | "LONG_BINPUT":
                assert arg is not None
                memo[arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                assert arg is not None
                stack.append(memo[arg])
            case "NEWOBJ" | "REDUCE":
                args, by = stack.pop(), stack.pop()
                stack.append(Made(by, args))
            case "BINPERSID":
                stack.append(Made("storage", stack.pop()))
            case "BUILD":
                state, made = stack.pop(), stack[-1]
                if not isinstance(made, Made):
                    raise ValueError("a state without an object")
                made.state = state
            case _:
                raise ValueError(f"the opcode {op.name}, which torch.jit.save doesn't write")
    raise ValueError("no end")


def _set(into: Any, pairs: Iterator[tuple[Any, Any]]) -> None:
    for key, value in pairs:
        # the hash of nested tuples can take forever
        if not isinstance(into, dict) or not isinstance(key, str | int | float):
            raise ValueError("a dict with a key that is no text or number")
        into[key] = value


def _tensors(module: Any, prefix: str, depth: int, seen: list[int]) -> Iterator[tuple[str, Made]]:
    """Yield what makes the tensors of a module and of those in it, with their names; ``seen`` counts."""
    if not isinstance(module, Made) or not isinstance(module.state, dict):
        return
    for name, value in module.state.items():
        if not isinstance(value, Made):
            continue
        seen[0] += 1
        if depth > MAX_DEPTH or seen[0] > MAX_ENTRIES:
            raise ValueError("modules that hold each other")
        if value.by == Named("torch._utils _rebuild_tensor_v2"):
            yield f"{prefix}{name}", value
        else:
            yield from _tensors(value, f"{prefix}{name}.", depth + 1, seen)


def _tensor(made: Made, path: Path, content: Tensor, stored: dict[str, zipfile.ZipInfo]) -> Tensor:
    storage, offset, size, stride = made.args[:4]
    _, kind, key, *_ = storage.args
    dtype = DTYPES.get(kind.name)
    if dtype is None:
        raise InputError(f"{path} has tensors of {kind.name.removeprefix('torch ')}: expected floats or integers")
    entry = stored[key]
    _check_stored(path, entry)
    start = entry.header_offset + _header(content, entry)
    if start + entry.file_size > len(content):
        raise ValueError(f"{entry.filename} is cut off")
    raw = content[start : start + entry.file_size]
    if start % dtype.itemsize:
        raw = raw.clone()
    flat = raw.view(dtype)
    # a stride of 0 makes any size of nothing, and behind an entry lies the rest of the file
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if prod(size) > len(flat) or min(offset, *stride, *size, 0) < 0 or (prod(size) and last >= len(flat)):
        raise ValueError(f"{entry.filename} has {len(flat)} values, too few for {tuple(size)}")
    return flat.as_strided(size, stride, offset + flat.storage_offset())


def _header(content: Tensor, entry: zipfile.ZipInfo) -> int:
    """Bytes between the place of an entry and its data."""
    head = bytes(content[entry.header_offset : entry.header_offset + HEADER].tolist())
    if not head.startswith(b"PK\x03\x04"):
        raise ValueError(f"{entry.filename} has no header")
    return HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def _check_stored(path: Path, entry: zipfile.ZipInfo) -> None:
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise InputError(f"{path} is refused: PyTorch stores {entry.filename} as it is, this one is compressed")
