"""The IDX format of MNIST (http://yann.lecun.com/exdb/mnist, section "THE IDX FILE FORMAT"), plain or gzipped, kept
in memory.

A file is two zero bytes, one byte for the type, one for the number of dimensions, the sizes as big-endian uint32,
then the values.
"""

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.data.sets import ImageFormat, ImageSet, Split
from core.errors import InputError

__all__ = ["Idx", "IdxImages", "read_idx"]

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_STEMS = {"train": "train", "test": "t10k", "predict": "t10k"}


def read_idx(path: Path, limit: int = 4 << 30) -> np.ndarray:
    """The array in an IDX file, gzipped or not, in the machine's byte order.

    Args:
        path: The file.
        limit: The most bytes that the array may take: a small gzip can claim to hold a huge one.

    Raises:
        InputError: If the file is missing, is not IDX, is damaged or larger than the limit.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an IDX file, plain or .gz")
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or head[3] == 0:
                raise InputError(f"{path}: not an IDX file (it starts with {head.hex(' ') or 'nothing'})")
            shape = [int.from_bytes(file.read(4), "big") for _ in range(head[3])]
            dtype = np.dtype(_TYPES[head[2]])
            size = math.prod(shape) * dtype.itemsize
            if size > limit:
                raise InputError(f"{path}: claims an array of {shape}, {size} bytes; the limit is {limit}")
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or not readable ({error}); fetch it again") from error
    if len(data) != size:
        had = f"only {len(data)}" if len(data) < size else "more"
        raise InputError(f"{path}: the header promises {size} bytes of data for {shape}, the file has {had}")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


class IdxImages(ImageSet):
    """Grayscale images from one IDX file and their labels from another.

    Args:
        images: File with (N, H, W) bytes.
        labels: File with (N,) bytes.
        classes: Names of the classes; without, their numbers.

    Raises:
        InputError: If a file is not what it should be, the two differ in length, or a label has no name.
    """

    in_memory = True

    def __init__(self, images: Path, labels: Path, classes: Sequence[str] = ()) -> None:
        self.images = read_idx(images)
        if self.images.ndim != 3 or self.images.dtype != np.uint8:
            raise InputError(
                f"{images}: holds {self.images.dtype} {self.images.shape}, expected bytes (N, height, width)"
            )
        found = read_idx(labels)
        if found.shape != self.images.shape[:1]:
            raise InputError(f"{labels}: holds {found.shape} labels for {len(self.images)} images in {images.name}")
        self.labels: np.ndarray = found.astype(np.int64)
        count = int(self.labels.max()) + 1 if len(self.labels) else 0
        self.classes = list(classes) or [str(number) for number in range(count)]
        if count > len(self.classes):
            raise InputError(f"{labels}: has class {count - 1}, but only {len(self.classes)} classes are named")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        return self.images[np.asarray(indices)]

    def name(self, index: int) -> str:
        return str(index)


class Idx(ImageFormat):
    """A folder with ``train-`` and ``t10k-images-idx3-ubyte`` and ``-labels-idx1-ubyte``, each plain or ``.gz``.

    There is no validation split: a part of the training images is held out for it.

    Args:
        classes: Names of the classes, in order; without, their numbers.
    """

    def __init__(self, classes: list[str] | None = None) -> None:
        self.classes = classes or []

    def open(self, root: Path, split: Split) -> IdxImages | None:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; expected one with IDX files such as train-images-idx3-ubyte.gz")
        if split not in _STEMS:
            return None
        stem = _STEMS[split]
        images, labels = (_find(root, f"{stem}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        return IdxImages(images, labels, self.classes)


def _find(root: Path, name: str) -> Path:
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"{root}: holds neither {name} nor {name}.gz; expected the files of MNIST or Fashion-MNIST")
