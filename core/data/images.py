"""Pictures: decoding by PIL, upright, in RGB, with a limit on their size; and folders of them, one for each class."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from core.data.sets import ImageFormat, ImageSet, Split
from core.data.splits import SPLIT_NAMES
from core.errors import InputError

__all__ = ["MAX_PIXELS", "SUFFIXES", "FolderImages", "ImageFolder", "class_folders", "pictures", "read_image"]

MAX_PIXELS = 1 << 27  # 134 million: 400 MB in RGB; more is taken for a decompression bomb
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


def read_image(source: Path | bytes, max_pixels: int = MAX_PIXELS, name: str = "image") -> Image.Image:
    """The picture in a file, turned upright by its EXIF orientation, as RGB (transparent parts on white).

    16 bits a channel are scaled to 8. Of an animation, the first frame is taken. The size is checked before anything
    is decoded.

    Args:
        source: The file, or what is in it.
        max_pixels: The most pixels that the picture may have.
        name: What to call the picture in errors, where ``source`` is bytes.

    Raises:
        InputError: If the file is missing, empty, damaged, no picture, or has more than ``max_pixels`` pixels.
    """
    name = name if isinstance(source, bytes) else str(source)
    try:
        if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
            raise InputError(f"{name}: empty (0 bytes), not a picture; fetch it again or remove it")
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > max_pixels:
                raise InputError(f"{name}: {image.width} x {image.height} pixels; the limit is {max_pixels} pixels")
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: more pixels than the limit of {max_pixels} ({error})") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not a picture, or in a format that is not known here") from error
    except Exception as error:  # decoders raise errors of every kind for damaged files (struct, index, type, zlib, ...)
        raise InputError(f"{name}: damaged or not readable ({' '.join(str(error).split())})") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        under = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(under, over).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits as bytes: whole numbers count up to 65535, others up to 1."""
    if values.dtype.kind == "f":
        return (np.nan_to_num(values).clip(0, 1) * 255).round().astype(np.uint8)
    return (values.astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)


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
        nested = _first_folder(root, SPLIT_NAMES["train"])
        classes = class_folders(nested or root)
        if nested is None:
            return _labelled(root, classes) if split == "train" else None
        folder = _first_folder(root, SPLIT_NAMES[split])
        return None if folder is None else _labelled(folder, classes)


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, in alphabetical order, but for hidden ones."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def pictures(folder: Path) -> list[Path]:
    """The pictures below a folder, by their suffixes, in alphabetical order; nothing hidden."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _labelled(folder: Path, classes: list[str]) -> FolderImages:
    unknown = sorted(set(class_folders(folder)) - set(classes))
    if unknown:
        raise InputError(f"{folder}: has classes that training doesn't have: {', '.join(unknown[:5])}")
    found = [(path, label) for label, name in enumerate(classes) for path in pictures(folder / name)]
    if found and len(classes) < 2:
        raise InputError(
            f"{folder}: has one class folder only ({classes[0]}), expected two or more; "
            "to train without labels use core.data.photos.Photos"
        )
    if not found:
        raise InputError(f"{folder}: no pictures; expected a subfolder for each class with .jpg, .png, ... files in it")
    return FolderImages(folder, [path for path, _ in found], np.array([label for _, label in found], np.int64), classes)


def _unlabelled(root: Path) -> FolderImages:
    paths = pictures(root)
    if not paths:
        raise InputError(f"{root}: no pictures below it; expected .jpg, .png, ... files")
    return FolderImages(root, paths, None, [])
