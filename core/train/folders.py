"""Folders of runs, which are never shared by two, and files that appear only when they are complete."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

__all__ = ["new_folder", "one_run", "remove", "write_text"]

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
    Ranks that something else started write nothing: what they get is only a name.
    """
    inherited = os.environ.get(_VARIABLE)
    if inherited:
        return Path(inherited)
    rank = getattr(rank_zero_only, "rank", 0)
    if rank > 0:
        return base / f"rank_{rank}"
    while True:
        taken = [int(m[1]) for m in (re.fullmatch(r"version_(\d+)", path.name) for path in base.glob("version_*")) if m]
        folder = base / f"version_{max(taken, default=-1) + 1}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another process was faster
            continue
        os.environ[_VARIABLE] = str(folder)
        return folder


@contextlib.contextmanager
def one_run() -> Iterator[None]:
    """Around everything that is to share one :func:`new_folder`."""
    inherited = os.environ.get(_VARIABLE)
    try:
        yield
    finally:
        if inherited is None:
            os.environ.pop(_VARIABLE, None)


def remove(folder: Path) -> None:
    """Take back a folder of :func:`new_folder`, and the two around it (the run's and that of all runs) if empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
        folder.parent.parent.rmdir()
