"""IDX files: real ones as torchvision reads them, and every way in which one can be wrong."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from core.data.idx import Idx, read_idx
from core.data.sets import hold_out
from core.errors import InputError

SUBSET = Path(__file__).parents[2] / "assets" / "fashion_mnist_subset"


def _bytes(array: np.ndarray, code: int) -> bytes:
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_equals_torchvision(tmp_path: Path):
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        plain = tmp_path / name
        plain.write_bytes(gzip.decompress((SUBSET / f"{name}.gz").read_bytes()))
        theirs = read_sn3_pascalvincent_tensor(str(plain), strict=False)
        assert torch.equal(torch.from_numpy(read_idx(plain).copy()), theirs)
        assert np.array_equal(read_idx(SUBSET / f"{name}.gz"), read_idx(plain))


@pytest.mark.parametrize(("code", "dtype"), [(8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_every_type(tmp_path: Path, code: int, dtype: str):
    array = np.arange(-6 if dtype != "u1" else 0, 6).astype(dtype).reshape(-1, 2)
    (tmp_path / "file").write_bytes(_bytes(array, code))
    found = read_idx(tmp_path / "file")
    assert found.dtype.isnative
    assert np.array_equal(found, array)


def test_what_is_wrong_is_said(tmp_path: Path):
    good = _bytes(np.zeros((3, 2), np.uint8), 8)
    cases = {
        "nothing": (b"", "not an IDX file"),
        "text": (b"hello, world", "not an IDX file"),
        "short": (good[:-1], "the file has only 5"),
        "long": (good + b"x", "the file has more"),
        "huge": (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**30, 2**10, 2**10), "the limit is"),
        "cut": (gzip.compress(_bytes(np.arange(9999).astype(">i4"), 12))[:-20], "damaged"),
        "flip": (gzip.compress(good)[:12] + b"\xff\xff\xff" + gzip.compress(good)[15:], "damaged"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_idx(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_idx(tmp_path / "absent")


def test_folder_of_a_data_set(tmp_path: Path):
    train = Idx().open(SUBSET, "train")
    assert train is not None
    assert train.images.shape[1:] == (28, 28)
    assert np.bincount(train.labels).tolist() == [len(train) // 10] * 10
    assert Idx().open(SUBSET, "val") is None
    with pytest.raises(InputError, match="no such folder"):
        Idx().open(tmp_path / "absent", "train")
    with pytest.raises(InputError, match="holds neither t10k-images-idx3-ubyte nor"):
        Idx().open(tmp_path, "test")
    with pytest.raises(InputError, match="only 3 classes are named"):
        Idx(["a", "b", "c"]).open(SUBSET, "train")


def test_what_is_held_out_is_no_longer_there():
    whole = Idx().open(SUBSET, "train")
    assert whole is not None
    rest, held = hold_out(whole, 0.05)
    assert len(held) == round(0.05 * len(whole))
    assert sorted([*rest.indices, *held.indices]) == list(range(len(whole)))
    assert np.array_equal(held.read([3]), whole.read([int(held.indices[3])]))
    assert np.array_equal(hold_out(whole, 0.05)[1].indices, held.indices)
