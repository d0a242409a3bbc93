"""Folders of runs, which are never shared by two, and files that appear only when they are complete."""

import os
import re
import tempfile
from pathlib import Path

__all__ = ["new_folder", "remove_if_empty", "write_text"]

_VARIABLE = "SENSORIUM_RUN_FOLDER"


def write_text(path: Path, text: str) -> None:
    """Write a file by way of a temporary one beside it, so that nobody sees a part of it; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        # a temporary file is private; the result follows the user's mask like any other file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(draft, 0o666 & ~mask)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def new_folder(base: Path) -> Path:
    """Make ``base/version_N`` with the first N after all that exist.

    Processes that this one starts afterwards (the other ranks) are told by the environment, and get the same folder.
    """
    inherited = os.environ.get(_VARIABLE)
    if inherited:
        return Path(inherited)
    while True:
        taken = [int(m[1]) for m in (re.fullmatch(r"version_(\d+)", path.name) for path in base.glob("version_*")) if m]
        folder = base / f"version_{max(taken, default=-1) + 1}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another process was faster
            continue
        os.environ[_VARIABLE] = str(folder)
        return folder


def remove_if_empty(folder: Path) -> None:
    """Take back a folder of :func:`new_folder` in which nothing was left, and forget it."""
    os.environ.pop(_VARIABLE, None)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
