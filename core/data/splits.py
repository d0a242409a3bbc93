"""Which files of a data set belong to which split, by the names of files and folders."""

import re
from pathlib import Path

from core.data.sets import Split

__all__ = ["SPLIT_NAMES", "files_by_split", "named_split"]

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def named_split(word: str) -> Split | None:
    """The split that a word means: ``validation`` is "val"; None if it means none."""
    return next((split for split, names in SPLIT_NAMES.items() if word.lower() in names), None)


def files_by_split(root: Path, suffixes: tuple[str, ...]) -> dict[Split, list[Path]]:
    """The files below ``root`` with one of the suffixes, in alphabetical order, by split.

    A file's split is the first word of its name (``train-00000-of-00002.parquet``, ``val_3.tar``) or the name of a
    folder that it is in. Files that tell no split count as training where no file tells one, else not at all. "predict"
    is the test files if there are any, else all.
    """
    found: dict[Split, list[Path]] = {}
    rest: list[Path] = []
    paths = [root] if root.is_file() else sorted(root.rglob("*"))
    for path in paths:
        parts = path.relative_to(root).parts
        if path.suffix.lower() not in suffixes or not path.is_file() or any(part.startswith(".") for part in parts):
            continue
        words = [re.split(r"[-_.]", path.name)[0], *reversed(parts[:-1])]
        split = next((split for word in words if (split := named_split(word)) is not None), None)
        (rest if split is None else found.setdefault(split, [])).append(path)
    if not found and rest:
        found["train"] = rest
    everything = [path for files in found.values() for path in files]
    return {**found, "predict": found.get("test", everything)} if everything else {}
