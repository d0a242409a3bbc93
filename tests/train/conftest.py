"""A small data set and a small model that every test of the trainer can afford."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an IDX file of bytes."""
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 images to train on and 20 to test on, 8 x 8 in four classes: which quarter is bright."""
    folder = tmp_path_factory.mktemp("idx")
    random = np.random.default_rng(0)
    for name, count in (("train", 100), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 4
        images = random.integers(0, 100, (count, 8, 8), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[row : row + 4, column : column + 4] += 120
        write_idx(folder / f"{name}-images-idx3-ubyte", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture
def config(tmp_path: Path, idx_folder: Path) -> Callable[..., Path]:
    """Writes a configuration: a tiny ViT, 10 steps an epoch, 3 epochs; ``noise`` is its stochastic depth."""

    def write(noise: float = 0.5, **trainer: Any) -> Path:
        small = {"class_path": "vision.augment.Small", "init_args": {"mean": [0.3], "std": [0.3]}}
        shape = {"image": [8, 8], "patch": 4, "channels": 1, "dim": 16, "depth": 2, "heads": 2, "classes": 4}
        task = {
            "model": {"class_path": "vision.vit.ViT", "init_args": {"config": {**shape, "drop_path": noise}}},
            "classes": 4,
            "smoothing": 0.1,
            "mix": {"class_path": "vision.augment.Mix", "init_args": {"mixup": 0.2, "cutmix": 1.0}},
            "optim": {"lr": 0.01, "layer_decay": 0.8},
            "schedule": {"warmup": 0.2},
            "ema": 0.9,
        }
        data = {
            "root": str(idx_folder),
            "format": {"class_path": "core.data.idx.Idx", "init_args": {"classes": ["nw", "ne", "sw", "se"]}},
            "preprocess": small,
            "augment": {**small, "init_args": {**small["init_args"], "shift": 1}},  # type: ignore[dict-item]
            "batch_size": 8,
            "hold_out": 0.2,
        }
        content = {
            "runs": str(tmp_path / "runs"),
            "trainer": {
                "accelerator": "cpu",
                "devices": 1,
                "max_epochs": 3,
                "gradient_clip_val": 1.0,
                "log_every_n_steps": 1,
                "enable_model_summary": False,
                **trainer,
            },
            "model": {"class_path": "vision.tasks.classify.Classify", "init_args": task},
            "data": {"class_path": "vision.tasks.data.ImageData", "init_args": data},
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write
