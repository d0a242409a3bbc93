"""The third job: tell pictures apart by words and find them by words, with the two-tower model in ``assets/``."""

import csv
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from core.data.idx import read_idx
from core.errors import InputError
from sensorium.demo.images import DATA, run

__all__ = ["LABELS", "Reading", "read"]

LABELS = (
    "t-shirt", "pair of trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
QUERIES = ("a dark handbag", "a pair of long pants", "a bright sneaker")
FOUND = 8


@dataclass(frozen=True)
class Reading:
    """What ``sensorium classify`` and ``sensorium search`` answered.

    Attributes:
        commands: as typed.
        seconds: that classifying all pictures took, with starting.
        images: (N, 28, 28) bytes.
        truth: (N,) classes.
        guess: (N,) classes.
        sure: (N,) probability of the guess.
        found: for each query, the images that fit it best.
    """

    commands: list[str]
    seconds: float
    images: np.ndarray
    truth: np.ndarray
    guess: np.ndarray
    sure: np.ndarray
    found: dict[str, np.ndarray]

    @property
    def accuracy(self) -> float:
        """Share of the pictures whose label is right."""
        return float((self.truth == self.guess).mean())


def read(root: Path, folder: Path) -> Reading:
    """Classify and search the embedded test images, as picture files, by the commands that a person would type.

    Raises `InputError` when one of them fails.
    """
    pictures = folder / "pictures"
    images = _written(root, pictures)
    shown = Path(os.path.relpath(pictures, root))
    classified, embedded = folder / "labels.csv", folder / "pictures.parquet"
    for path in (classified, embedded):
        path.unlink(missing_ok=True)  # of an earlier demo
    started = time.perf_counter()
    classify = ["classify", str(shown), "--labels", ",".join(LABELS), "--top", "1", "--format", "csv"]
    commands = [run(root, classify, classified)]
    seconds = time.perf_counter() - started
    index = os.path.relpath(embedded, root)
    commands.append(run(root, ["embed", str(shown), "--model", "assets/clip_fashion_mnist", "--out", index]))
    found = {}
    for query in QUERIES:
        answer = folder / "found.txt"
        page = os.path.relpath(folder / f"{query.replace(' ', '_')}.html", root)
        asked = ["search", query, "--index", index, "--top", str(FOUND), "--html", page]
        commands.append(run(root, asked, answer))
        found[query] = np.stack([_read(root / line.split(maxsplit=1)[1]) for line in answer.read_text().splitlines()])
    with classified.open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    if len(rows) != len(images):
        raise InputError(f"{len(rows)} of {len(images)} pictures were classified")
    return Reading(
        commands,
        seconds,
        images,
        truth=read_idx(root / DATA / "t10k-labels-idx1-ubyte.gz"),
        guess=np.array([LABELS.index(row["label"]) for row in rows]),
        sure=np.array([float(row["probability"]) for row in rows]),
        found=found,
    )


def _written(root: Path, folder: Path) -> np.ndarray:
    """The test images (N, 28, 28), each now a PNG named by its number."""
    images = read_idx(root / DATA / "t10k-images-idx3-ubyte.gz")
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04d}.png")
    return images


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
