"""Cut the small balanced subset of Fashion-MNIST that `make demo` learns from.

    python assets/make_fashion_mnist_subset.py FULL [--train 500] [--test 100] [--out assets/fashion_mnist_subset]

FULL is a folder with the four IDX files of the whole set (`train-images-idx3-ubyte.gz`, ...). Of each class the first
images in the order of the full set are kept, so the same input always gives the same bytes.
"""

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np

SPLITS = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """One IDX file of unsigned bytes as an array: magic (0, 0, 8, rank), big-endian sizes, data."""
    raw = gzip.decompress(path.read_bytes())
    zero, kind, rank = struct.unpack(">HBB", raw[:4])
    if zero != 0 or kind != 8:
        raise SystemExit(f"error: {path} is not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write `array` as gzipped IDX, without a time stamp so that the bytes are reproducible."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), compresslevel=9, mtime=0))


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first `count` samples of every class, in their original order."""
    chosen = [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("full", type=Path, help="folder with the four IDX files of the full set")
    parser.add_argument("--train", type=int, default=500, help="training images per class")
    parser.add_argument("--test", type=int, default=100, help="test images per class")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "fashion_mnist_subset")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for split, stem in SPLITS.items():
        images = read_idx(options.full / f"{stem}-images-idx3-ubyte.gz")
        labels = read_idx(options.full / f"{stem}-labels-idx1-ubyte.gz")
        keep = first_of_each_class(labels, getattr(options, split))
        write_idx(options.out / f"{stem}-images-idx3-ubyte.gz", images[keep])
        write_idx(options.out / f"{stem}-labels-idx1-ubyte.gz", labels[keep])
        print(f"{split}: {len(keep)} images")


if __name__ == "__main__":
    main()
