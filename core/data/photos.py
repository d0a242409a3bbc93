"""A folder of photos without classes, for training without labels."""

from pathlib import Path

from core.data.images import FolderImages, pictures
from core.data.sets import ImageFormat, Split
from core.data.splits import SPLIT_NAMES
from core.errors import InputError

__all__ = ["Photos"]


class Photos(ImageFormat):
    """Every picture below ``root``, at any depth, without labels.

    Where there is a folder ``train``, it holds the training pictures, and ``val`` and ``test`` beside it theirs.
    """

    def open(self, root: Path, split: Split) -> FolderImages | None:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; expected one with pictures")
        folders: dict[Split, Path] = {
            name: root / word
            for name, words in SPLIT_NAMES.items()
            for word in reversed(words)
            if (root / word).is_dir()
        }
        if "train" in folders and split != "predict":
            folder = folders.get(split)
        else:
            folder = root if split in ("train", "predict") else None
        if folder is None:
            return None
        paths = pictures(folder)
        if not paths:
            raise InputError(f"{folder}: no pictures below it; expected .jpg, .png, ... files")
        return FolderImages(folder, paths, None, [])
