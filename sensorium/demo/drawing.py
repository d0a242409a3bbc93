"""The fourth job: draw clothes with the diffusion model in ``assets/``, and see whether they can be told apart."""

import csv
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from sensorium.demo.images import run
from sensorium.demo.words import LABELS
from sensorium.made_pictures import read_settings

__all__ = ["Drawing", "draw", "is_there"]

MODEL = Path("assets/dit_fashion_mnist")
EACH = 4  # pictures of a class


@dataclass(frozen=True)
class Drawing:
    """What ``sensorium generate`` drew, and what ``sensorium classify`` saw in it.

    Attributes:
        commands: as typed.
        seconds: that drawing took, with starting.
        count: pictures.
        recognised: those in which the small CLIP of the demo sees the class that was asked for.
        sheet: all pictures, PNG bytes.
        film: how they come out of the noise, WebP bytes.
    """

    commands: list[str]
    seconds: float
    count: int
    recognised: int
    sheet: bytes
    film: bytes


def is_there(root: Path) -> bool:
    """Whether the checkout has the model."""
    return (root / MODEL).is_dir()


def draw(root: Path, folder: Path) -> Drawing:
    """Draw a few pictures of each class and classify them, by the commands that a person would type.

    Raises `InputError` when one of them fails.
    """
    out, answers = folder / "drawn", folder / "drawn.csv"
    shutil.rmtree(out, ignore_errors=True)  # of an earlier demo
    place = os.path.relpath(out, root)
    started = time.perf_counter()
    commands = [run(root, ["generate", "--num", str(EACH * len(LABELS)), "--preview", "--out", place])]
    seconds = time.perf_counter() - started
    asked = ["--labels", ",".join(LABELS), "--top", "1", "--format", "csv"]
    commands.append(run(root, ["classify", f"{place}/*_00*.png", *asked], answers))
    with answers.open() as file:
        rows = list(csv.DictReader(file))
    made = [read_settings(out / Path(row["path"]).name) or {} for row in rows]
    return Drawing(
        commands,
        seconds,
        len(rows),
        sum(said["class_index"] == LABELS.index(row["label"]) for said, row in zip(made, rows, strict=True)),
        (out / "sheet.png").read_bytes(),
        (out / "preview.webp").read_bytes(),
    )
