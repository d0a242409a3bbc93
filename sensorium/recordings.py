"""Which recordings are meant by what is written on a command line."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from core.errors import InputError

__all__ = ["STDIN", "Found", "find_recordings"]

STDIN = Path("-")

# What is looked for in folders: sound, and films, whose sound is taken.
_SOUND = "wav flac ogg oga opus mp3 m4a m4b aac wma aif aiff aifc caf au amr ac3 ape wv tta mka w64"
_FILM = "mp4 m4v mkv webm mov avi flv wmv mpg mpeg ts mts m2ts 3gp ogv"
_ENDINGS = {f".{ending}" for ending in (_SOUND + " " + _FILM).split()}


class Found(NamedTuple):
    """A recording."""

    path: Path
    within: Path  # its place in a folder of results: below a folder that was given, it stays where it is


def find_recordings(inputs: Sequence[str]) -> list[Found]:
    """The recordings that files, folders, patterns such as ``talks/*.mp3`` and ``-`` (standard input) stand for.

    Each once; a file that doesn't exist is among them. Raises InputError for a folder without recordings, and a
    pattern that nothing fits.
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        path = Path(given)
        if path == STDIN:
            found[STDIN] = Path("stdin")
        elif path.is_dir():
            found |= {file: file.relative_to(path) for file in _in_folder(path)}
        elif glob.has_magic(given) and not path.exists():
            found |= {file: Path(file.name) for file in _fitting(given)}
        else:
            found[path] = Path(path.name)
    return [Found(path, within) for path, within in found.items()]


def _in_folder(folder: Path) -> list[Path]:
    inside = [path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file()]
    if not inside:
        raise InputError(f"{folder} is a folder without recordings: expected .wav, .mp3, .mp4 or the like in it")
    return sorted(inside)


def _fitting(pattern: str) -> list[Path]:
    paths = [Path(match) for match in glob.glob(pattern, recursive=True)]
    files = sorted(path for path in paths if path.is_file())
    if not files:
        raise InputError(f"no file fits {pattern}")
    return files
