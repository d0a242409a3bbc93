"""COCO's captions (https://cocodataset.org/#format-data, "Image Captioning"): pictures and a JSON file about them."""

import json
import re
from pathlib import Path
from typing import Any

from core.data.images import FolderImages
from core.data.sets import ImageFormat, Split
from core.data.splits import named_split
from core.errors import InputError

__all__ = ["CocoCaptions"]


class CocoCaptions(ImageFormat):
    """``annotations/captions_train2017.json`` with ``train2017/000000000009.jpg``, and ``val2017`` likewise.

    The JSON lists ``images`` (``id``, ``file_name``) and ``annotations`` (``image_id``, ``caption``); it may lie in
    ``annotations`` or in ``root`` itself. Pictures are looked for in the folder that is called like the end of its
    name, in ``images`` and in ``root``. Each image is there once, with all its captions. ``root`` may also be the JSON
    file itself: then it is for training.
    """

    def open(self, root: Path, split: Split) -> FolderImages | None:
        files = caption_files(root)
        if not files:
            raise InputError(f"{root}: no captions_*.json; expected one here or in annotations/")
        path = files.get("train" if split == "predict" else split)
        if path is None:
            return None
        folder = path.parent.parent if path.parent.name == "annotations" else path.parent
        return _read(path, folder)


def caption_files(root: Path) -> dict[Split, Path]:
    """The files of captions of each split; nothing if there are none."""
    if root.is_file():
        return {"train": root} if root.suffix == ".json" else {}
    found: dict[Split, Path] = {}
    for path in sorted([*root.glob("captions_*.json"), *root.glob("annotations/captions_*.json")]):
        words = re.split(r"[_.-]", path.stem)[1:]
        told = next((split for word in words if (split := named_split(word.rstrip("0123456789")))), None)
        found.setdefault(told or "train", path)
    return found


def _read(path: Path, folder: Path) -> FolderImages:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: str(image["file_name"]) for image in said["images"]}
        captions: dict[Any, list[str]] = {key: [] for key in names}
        for note in said["annotations"]:
            captions[note["image_id"]].append(str(note["caption"]).strip())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not COCO's captions ({error!r}): expected images with id and file_name, and annotations with "
            "image_id and caption"
        ) from error
    if not names:
        raise InputError(f"{path}: lists no images")
    places = [folder / path.stem.rpartition("_")[2], folder / "images", folder]
    first = next(iter(names.values()))
    within = next((place for place in places if (place / first).is_file()), places[-1])
    paths = [_inside(within, name, path) for name in names.values()]
    found = FolderImages(within, paths, None, [])
    found.captions = [tuple(texts) for texts in captions.values()]
    return found


def _inside(folder: Path, name: str, path: Path) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{path}: names a picture outside of the data set ({name})")
    return folder / name
