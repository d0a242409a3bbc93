"""The fifth job: ask the vision-language model in ``assets/`` what the test images show, and about several at once."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.data.idx import read_idx
from multimodal.tasks.questions import with_article
from sensorium.demo.images import DATA, run
from sensorium.demo.words import LABELS

__all__ = ["Answers", "Chat", "ask", "is_there"]

MODEL = Path("assets/vlm_fashion_mnist")
QUESTION = "what is it?"
CHATS: tuple[tuple[tuple[int, ...], str], ...] = (  # numbers of test images, and what is asked about them
    ((0,), "is it footwear?"),
    ((1, 2), "how many items?"),
    ((3, 4, 5), "what is the second item?"),
)


class Chat(NamedTuple):
    """Pictures, a question about them and what was answered."""

    images: np.ndarray  # (N, 28, 28) bytes
    question: str
    answer: str


@dataclass(frozen=True)
class Answers:
    """What ``sensorium caption`` and ``sensorium chat`` said.

    Attributes:
        commands: as typed.
        count: pictures that it was asked about.
        right: those of which it said what they are.
        chats: a few questions about one to three pictures.
    """

    commands: list[str]
    count: int
    right: int
    chats: list[Chat]


def is_there(root: Path) -> bool:
    """Whether the checkout has the model."""
    return (root / MODEL / "config.json").is_file()


def ask(root: Path, folder: Path) -> Answers:
    """Ask about the pictures that the third job wrote, by the commands that a person would type.

    Raises `InputError` when one of them fails.
    """
    place, written = os.path.relpath(folder / "pictures", root), folder / "answers.csv"
    written.unlink(missing_ok=True)  # of an earlier demo
    shown = os.path.relpath(written, root)
    asked = ["caption", f"{place}/0[01]*.png", "--prompt", QUESTION, "--batch-size", "50", "--output", shown]
    commands = [run(root, asked)]
    with written.open() as file:
        said = {int(Path(row["image"]).stem): row["caption"] for row in csv.DictReader(file)}
    truth = read_idx(root / DATA / "t10k-labels-idx1-ubyte.gz")
    images = read_idx(root / DATA / "t10k-images-idx3-ubyte.gz")
    right = sum(answer == with_article(LABELS[truth[number]]) for number, answer in said.items())
    chats = []
    for numbers, question in CHATS:
        answer = folder / "answer.txt"
        files = [part for number in numbers for part in ("--image", f"{place}/{number:04d}.png")]
        commands.append(run(root, ["chat", *files, question], answer))
        chats.append(Chat(images[list(numbers)], question, answer.read_text().strip()))
    return Answers(commands, len(said), right, chats)
