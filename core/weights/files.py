"""Files and folders that appear only when they are complete."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import InputError

__all__ = ["digest", "read_json", "replacing", "section", "sync"]

MAX_JSON = 64 * 2**20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a draft beside ``path``, and put it in place when the body ends well; else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        draft = room / path.name
        yield draft
        # some writers make private files; the result follows the user's mask like any other
        mask = room / ".mask"
        mask.touch()
        draft.chmod(mask.stat().st_mode)
        sync(draft)
        os.replace(draft, path)
        sync(path.parent)
    finally:
        shutil.rmtree(room)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names of a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: if it is missing, huge, damaged, or no object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise InputError(f"{path} has {size} bytes, more than the {MAX_JSON} of any sensible JSON file")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a JSON {type(data).__name__}, expected an object")
    return data


def section(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an object inside a JSON object, or nothing if there is none of that name."""
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the weights in a folder, in hexadecimal digits.

    Raises:
        InputError: if there is nothing to read.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    found = hashlib.sha256()
    try:
        for file in files:
            with file.open("rb") as opened:
                found.update(hashlib.file_digest(opened, "sha256").digest())
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    if not files:
        raise InputError(f"{path}: holds no .safetensors")
    return found.hexdigest()
