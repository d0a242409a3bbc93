"""The pictures that somebody means: files, folders, globs."""

from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from core.errors import InputError

__all__ = ["find_pictures"]


def find_pictures(given: Sequence[str]) -> list[Path]:
    """Return the files that were meant, each once: files, folders (searched at any depth) and globs.

    Raises `InputError` when a folder or a glob has no pictures, or a URL is given.
    """
    from core.data.images import pictures

    found: dict[Path, None] = {}
    for name in given:
        if name.startswith(("http://", "https://")):
            raise InputError(
                f"{name} is a URL, and nothing is downloaded unasked: fetch the picture, then give the file"
            )
        path = Path(name).expanduser()
        if path.is_dir():
            more = pictures(path)
        elif path.exists() or not has_magic(name):
            more = [path]
        else:
            more = sorted(Path(match) for match in glob(str(path), recursive=True) if Path(match).is_file())
        if not more:
            raise InputError(f"{name}: no pictures there; expected .jpg, .png, ... files")
        found.update(dict.fromkeys(more))
    return list(found)
