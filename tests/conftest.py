"""What all tests share: where the real weights and data are, a few images, and steady draws."""

import os
from pathlib import Path

import pytest
import torch

from core.data.idx import read_idx

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and data: ``$SENSORIUM_ASSETS``, else ``../shared/assets`` beside the checkout."""
    folder = Path(os.environ.get("SENSORIUM_ASSETS", ROOT.parent / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip(f"no real weights and data at {folder}: set SENSORIUM_ASSETS")
    return folder


@pytest.fixture(scope="session")
def few_fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every tenth image of the subset of Fashion-MNIST: 500 to train on and 100 to test on.

    For tests that ask whether a recipe runs from end to end, and not how good it gets: what is measured on the way is
    measured on all images that there are.
    """
    folder = tmp_path_factory.mktemp("few_fashion")
    for kind in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        array = read_idx(ROOT / "assets" / "fashion_mnist_subset" / f"{kind}-ubyte.gz")[::10]
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / f"{kind}-ubyte").write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
