"""Pictures in folders: decoding by PIL, upright, in RGB, with a limit on their size; class names from folder names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from core.data.sets import ImageFormat, ImageSet, Split
from core.errors import InputError

__all__ = ["MAX_PIXELS", "FolderImages", "ImageFolder", "read_image"]

MAX_PIXELS = 1 << 27  # 134 million: 400 MB in RGB; more is taken for a decompression bomb
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a file, turned upright by its EXIF orientation, as RGB (transparent parts on white).

    Raises:
        InputError: If the file is missing, empty, damaged, no picture, or has more than ``max_pixels`` pixels.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > max_pixels:
                raise InputError(f"{path}: {image.width} x {image.height} pixels; the limit is {max_pixels} pixels")
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: {error}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a picture, or in a format that is not known here") from error
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for damaged files
        raise InputError(f"{path}: damaged or not readable ({error})") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        under = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(under, over).convert("RGB")
    return image.convert("RGB")


class FolderImages(ImageSet):
    """Pictures read from files when they are asked for.

    Args:
        root: Names are given relative to it.
        paths: The files.
        labels: (N,) int64 classes, or None.
        classes: Names of the classes.
    """

    def __init__(self, root: Path, paths: list[Path], labels: np.ndarray | None, classes: list[str]) -> None:
        self.root, self.paths, self.labels, self.classes = root, paths, labels, classes

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        return [read_image(self.paths[index]) for index in indices]

    def name(self, index: int) -> str:
        return self.paths[index].relative_to(self.root).as_posix()


class ImageFolder(ImageFormat):
    """``root/train/CLASS/picture.jpg``, with ``val`` and ``test`` beside ``train``; or ``root/CLASS/picture.jpg`` for
    training only.

    Classes are the folders' names in alphabetical order, those of training for every split. To predict, every picture
    below ``root`` is taken, however it lies. Hidden files and files that aren't pictures by their suffix are passed
    over.
    """

    def open(self, root: Path, split: Split) -> FolderImages | None:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; expected one with a subfolder of pictures for each class")
        if split == "predict":
            return _unlabelled(root)
        nested = _first_folder(root, _SPLITS["train"])
        classes = _class_names(nested or root)
        if nested is None:
            return _labelled(root, classes) if split == "train" else None
        folder = _first_folder(root, _SPLITS[split])
        return None if folder is None else _labelled(folder, classes)


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _labelled(folder: Path, classes: list[str]) -> FolderImages:
    unknown = sorted(set(_class_names(folder)) - set(classes))
    if unknown:
        raise InputError(f"{folder}: has classes that training doesn't have: {', '.join(unknown[:5])}")
    found = [(path, label) for label, name in enumerate(classes) for path in _pictures(folder / name)]
    if not found:
        raise InputError(f"{folder}: no pictures; expected a subfolder for each class with .jpg, .png, ... files in it")
    return FolderImages(folder, [path for path, _ in found], np.array([label for _, label in found], np.int64), classes)


def _unlabelled(root: Path) -> FolderImages:
    paths = _pictures(root)
    if not paths:
        raise InputError(f"{root}: no pictures below it; expected .jpg, .png, ... files")
    return FolderImages(root, paths, None, [])
