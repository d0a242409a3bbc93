"""What all tests share: where the real weights and data are, and steady threads."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and data: ``$SENSORIUM_ASSETS``, else ``../shared/assets`` beside the checkout."""
    folder = Path(os.environ.get("SENSORIUM_ASSETS", ROOT.parent / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip(f"no real weights and data at {folder}: set SENSORIUM_ASSETS")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
