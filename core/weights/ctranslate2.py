"""The ``model.bin`` of CTranslate2 (faster-whisper's models), read and written without it.

Layout, little-endian (CTranslate2's ``specs/model_spec.py``)::

    u32 version, string spec, u32 revision
    u32 count, then for each variable: string name, u8 rank, u32 * rank shape, u8 dtype, u32 bytes, data
    u32 count, then for each alias: string alias, string variable

A string is a u16 length, the text, and a zero byte that the length includes. An alias of a quantised variable is an
alias of its scale too.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError

from .files import replacing

__all__ = ["ScaledRows", "looks_like_ctranslate2", "read_ctranslate2", "write_ctranslate2"]

DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
VERSIONS = range(4, 7)  # earlier ones don't say whether two bytes are int16 or float16
MAX_RANK = 8
SCALE = "_scale"
REACH = {torch.int8: 127.0, torch.int16: 1024.0}  # int16 keeps to 10 bits, so that products add up in 32


class ScaledRows:
    """Integers with a scale for each row (int8), or for the whole tensor (int16): value = integer / scale."""

    suffix = SCALE

    def unpack(self, packed: Tensor, companion: Tensor) -> Tensor:
        """Return the float32 tensor."""
        return packed.float() / _per_row(companion, packed)

    def pack(self, tensor: Tensor, dtype: torch.dtype, companion: Tensor | None) -> tuple[Tensor, Tensor]:
        """Quantise; where the old scale still gives these very values they become the very same integers."""
        tensor = tensor.float()
        if companion is not None and (companion.ndim == 0 or companion.shape == tensor.shape[:1]):
            packed = (tensor * _per_row(companion, tensor)).round()
            bounds = torch.iinfo(dtype)
            packed = packed.clamp(bounds.min, bounds.max).to(dtype)
            if torch.equal(self.unpack(packed, companion), tensor):
                return packed, companion
        rows = tensor.abs().flatten(1).amax(1) if dtype == torch.int8 else tensor.abs().amax()
        reach = REACH[dtype]
        # number / tensor would be a reciprocal and a product, which rounds otherwise
        scale = torch.full_like(rows, reach) / torch.where(rows == 0, reach, rows)
        return (tensor * _per_row(scale, tensor)).round().to(dtype), scale


def _per_row(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale if scale.ndim == 0 else scale.reshape(-1, *[1] * (tensor.ndim - 1))


class _Reader:
    """Takes values off a mapped file, and never more than there is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            # a private mapping: nothing is read before it is used, and nothing is written back
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.at = 0

    def take(self, size: int) -> int:
        """Move on by ``size`` bytes and return where they start."""
        if size > len(self.data) - self.at:
            raise InputError(f"{self.path} is cut off: {size} bytes are missing at {self.at}; fetch it again")
        self.at += size
        return self.at - size

    def number(self, kind: str) -> int:
        size = struct.calcsize("<" + kind)
        return int(struct.unpack_from("<" + kind, self.data, self.take(size))[0])

    def string(self) -> str:
        size = self.number("H")
        start = self.take(size)
        raw = self.data[start : start + size]
        if not raw.endswith(b"\0"):
            raise InputError(f"{self.path} is damaged: a name at byte {start} does not end")
        try:
            return raw[:-1].decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path} is damaged: no name at byte {start}") from error

    def tensor(self, name: str) -> Tensor:
        rank = self.number("B")
        if rank > MAX_RANK:
            raise InputError(f"{self.path} is damaged: {name} has {rank} axes")
        shape = [self.number("I") for _ in range(rank)]
        kind, size = self.number("B"), self.number("I")
        if kind >= len(DTYPES):
            raise InputError(f"{self.path}: {name} has the unknown dtype {kind}")
        dtype, count = DTYPES[kind], math.prod(shape)
        if count * dtype.itemsize != size:
            raise InputError(f"{self.path} is damaged: {name} {tuple(shape)} can't have {size} bytes")
        start = self.take(size)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self.data, dtype=dtype, count=count, offset=start).reshape(shape)


def looks_like_ctranslate2(head: bytes) -> bool:
    """Whether a file that starts with these bytes may be a ``model.bin``."""
    if len(head) < 8:
        return False
    version, size = struct.unpack_from("<IH", head)
    return 1 <= version < 100 and 1 < size < 256 and head[6:8].isalnum()


def read_ctranslate2(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a ``model.bin``.

    Returns:
        The tensors, memory-mapped, with aliases as the same tensor under another name; and the format's own facts:
        spec, revision, version and aliases, which :func:`write_ctranslate2` takes again.

    Raises:
        InputError: if the file is missing, cut off, damaged, or of a version that isn't known.
    """
    try:
        reader = _Reader(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is empty"
        raise InputError(f"can't read {path}: {reason}") from error
    version = reader.number("I")
    if version not in VERSIONS:
        raise InputError(
            f"{path} is no CTranslate2 model of version {VERSIONS[0]} to {VERSIONS[-1]}: it says {version}"
        )
    meta: dict[str, Any] = {"version": version, "spec": reader.string(), "revision": reader.number("I")}
    tensors: dict[str, Tensor] = {}
    for _ in range(reader.number("I")):
        name = reader.string()
        if name in tensors:
            raise InputError(f"{path} is damaged: {name} is there twice")
        tensors[name] = reader.tensor(name)
    aliases = meta["aliases"] = {}
    for _ in range(reader.number("I")):
        alias, name = reader.string(), reader.string()
        if name not in tensors or alias in tensors:
            raise InputError(f"{path} is damaged: {alias} can't stand for {name}")
        aliases[alias] = name
        tensors[alias] = tensors[name]
        if name + SCALE in tensors:
            tensors.setdefault(alias + SCALE, tensors[name + SCALE])
    if reader.at != len(reader.data):
        raise InputError(f"{path} is damaged: {len(reader.data) - reader.at} bytes too many")
    return tensors, meta


def write_ctranslate2(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a ``model.bin``, atomically.

    Args:
        path: the file.
        tensors: in the names of the format; a quantised one has its scale beside it.
        meta: ``spec`` and ``revision``, and ``aliases`` (name: variable) for tensors that may be stored once.
            A tensor that no longer equals its twin is stored on its own.
    """
    aliases = {
        alias: name
        for alias, name in sorted(meta.get("aliases", {}).items())
        if alias in tensors
        and name in tensors
        and _equal(tensors[alias], tensors[name])
        and (alias + SCALE not in tensors or _equal(tensors[alias + SCALE], tensors.get(name + SCALE)))
    }
    implied = {alias + SCALE for alias in aliases if aliases[alias] + SCALE in tensors}
    own = {name: tensors[name] for name in sorted(tensors) if name not in aliases and name not in implied}
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(struct.pack("<I", meta.get("version", VERSIONS[-1])))
        file.write(_string(meta["spec"]) + struct.pack("<II", meta["revision"], len(own)))
        for name, tensor in own.items():
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            kind = DTYPES.index(tensor.dtype)
            shape = struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
            file.write(_string(name) + shape + struct.pack("<BI", kind, raw.nbytes))
            file.write(raw.data)
        file.write(struct.pack("<I", len(aliases)))
        for alias, name in aliases.items():
            file.write(_string(alias) + _string(name))


def _string(text: str) -> bytes:
    raw = text.encode("utf-8") + b"\0"
    return struct.pack("<H", len(raw)) + raw


def _equal(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.dtype == b.dtype and torch.equal(a, b)
