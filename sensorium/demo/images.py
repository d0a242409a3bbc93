"""The second job: train a small ViT on 5000 images with the public configuration, then look at what it learned."""

import csv
import os
import shlex
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.idx import read_idx
from core.errors import InputError

__all__ = ["DATA", "Training", "attention_to_patches", "read_training", "run", "train"]

CONFIG = Path("configs/vision/classify_vit_fashion_mnist.yaml")
DATA = Path("assets/fashion_mnist_subset")


@dataclass(frozen=True)
class Training:
    """What ``sensorium fit`` and ``sensorium predict`` left behind."""

    commands: list[str]  # as typed
    seconds: float  # of fit, with starting and testing
    steps: list[int]
    losses: list[float]  # at those steps
    accuracies: list[float]  # on the held-out images after each epoch
    test_accuracy: float
    names: list[str]
    images: np.ndarray  # (N, 28, 28), the test images
    truth: np.ndarray  # (N,)
    guess: np.ndarray  # (N,)
    sure: np.ndarray  # (N,), probability of the guess
    checkpoint: Path


def train(root: Path, folder: Path, epochs: int) -> Training:
    """Train for `epochs` and predict the test images, by the same commands that a person would type in `root`.

    Raises `InputError` when one of them fails.
    """
    runs = Path(os.path.relpath(folder / "runs", root))
    fit = ["fit", "-c", str(CONFIG), "--trainer.max_epochs", str(epochs), "--runs", str(runs), "--name", "vit"]
    fit += ["--trainer.log_every_n_steps", "2"]
    started = time.perf_counter()
    commands = [run(root, fit)]
    seconds = time.perf_counter() - started
    trained = newest(root / runs / "vit", "best.ckpt")
    predict = ["predict", "--ckpt_path", os.path.relpath(trained, root), "--runs", str(runs), "--name", "predictions"]
    commands.append(run(root, predict))
    return read_training(root, trained, newest(root / runs / "predictions", "predictions.csv"), commands, seconds)


def run(root: Path, arguments: list[str], output: Path | None = None) -> str:
    """Run one ``sensorium`` command in `root` and show what it prints, or write it to `output`; returns what to type.

    Raises `InputError` when it fails.
    """
    line = shlex.join(["sensorium", *arguments])
    if output is not None:
        line += f" > {shlex.quote(os.path.relpath(output, root))}"
    print(f"$ {line}", flush=True)
    with nullcontext() if output is None else output.open("w") as file:
        command = [sys.executable, "-m", "sensorium", *arguments]
        done = subprocess.run(command, cwd=root, stdout=file, check=False)
    if done.returncode:
        raise InputError(f"sensorium {arguments[0]} failed with exit code {done.returncode}; its message is above")
    return line


def newest(folder: Path, name: str) -> Path:
    """The file `name` of the run in `folder` that was made last."""
    found = sorted(folder.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"{folder}: no run there has left a {name}")
    return found[-1]


def read_training(root: Path, checkpoint: Path, predictions: Path, commands: list[str], seconds: float) -> Training:
    """Collect the figures that a run wrote (``metrics.csv``) and its predictions (``predictions.csv``)."""
    with (checkpoint.parent / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    trained = [row for row in rows if row.get("train/loss")]
    with predictions.open() as file:
        predicted = list(csv.DictReader(file))
    return Training(
        commands=commands,
        seconds=seconds,
        steps=[int(row["step"]) for row in trained],
        losses=[float(row["train/loss"]) for row in trained],
        accuracies=[float(row["val/accuracy"]) for row in rows if row.get("val/accuracy")],
        test_accuracy=next(float(row["test/accuracy"]) for row in reversed(rows) if row.get("test/accuracy")),
        names=class_names(checkpoint),
        images=read_idx(root / DATA / "t10k-images-idx3-ubyte.gz"),
        truth=read_idx(root / DATA / "t10k-labels-idx1-ubyte.gz"),
        guess=np.array([int(row["class_id"]) for row in predicted]),
        sure=np.array([float(row["probability"]) for row in predicted]),
        checkpoint=checkpoint,
    )


def class_names(checkpoint: Path) -> list[str]:
    """The names of the classes, from the configuration inside the checkpoint."""
    return list(recipe(checkpoint)["data"]["init_args"]["format"]["init_args"]["classes"])


def recipe(checkpoint: Path) -> dict[str, Any]:
    """The configuration inside the checkpoint."""
    from core.train.checkpoint import read_recipe

    return read_recipe(checkpoint)


@torch.inference_mode()
def attention_to_patches(checkpoint: Path, images: np.ndarray, block: int = -1) -> np.ndarray:
    """How much each patch is looked at: (N, heads, rows, columns), averaged over the patches that look.

    `images` are (N, H, W) bytes; `block` is counted as in a list. Only that block's weights are computed, the other
    blocks stay on the fused kernel.
    """
    from core.train.checkpoint import read_checkpoint
    from vision.vit import ViT, ViTConfig

    content = recipe(checkpoint)
    model = ViT(ViTConfig(**content["model"]["init_args"]["model"]["init_args"]["config"])).eval()
    state = read_checkpoint(checkpoint)["state_dict"]
    model.load_state_dict({name.removeprefix("ema."): w for name, w in state.items() if name.startswith("ema.")})
    scaling = content["data"]["init_args"]["preprocess"]["init_args"]
    mean, std = (torch.tensor(scaling[key]) for key in ("mean", "std"))
    pixels = (torch.from_numpy(images.astype(np.float32))[:, None] / 255 - mean) / std  # (N, H, W) -> (N, 1, H, W)
    number = range(model.config.depth)[block]
    weights = model.features(pixels, want={number: {"attn": True}}).notes[number]["attn"]["weights"]
    seen = weights[..., model.config.prefix :].mean(dim=2)  # (N, h, L, patches) -> (N, h, patches)
    rows, columns = model.config.grid
    return seen.unflatten(-1, (rows, columns)).numpy()
