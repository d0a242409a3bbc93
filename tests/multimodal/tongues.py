"""Small data, a small language model and the front door, for tests of trainings of language models."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from decoder_peers import reference
from PIL import Image

from sensorium.cli import main

ASSET = Path(__file__).parents[2] / "assets" / "fashion_mnist_chat"
CONFIGS = Path(__file__).parents[2] / "configs" / "multimodal"
VOCAB, IMAGE = 392, 5  # of the tokenizer
QUICK = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.precision=32-true",
    "--trainer.accumulate_grad_batches=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_model_summary=false",
    "--trainer.callbacks=[]",
    "--data.workers=0",
    f"--data.tokenizer={ASSET}",
]
NAMES = ("bag", "coat", "dress", "shirt", "sandal")


def chats(count: int = 24) -> list[dict[str, Any]]:
    """Chats with one to three answers of several lengths, in OpenAI's form."""
    found = []
    for number in range(count):
        messages: list[dict[str, str]] = []
        for turn in range(1 + number % 3):
            name = NAMES[(number + turn) % len(NAMES)]
            messages += [
                {"role": "user", "content": f"what is it {turn}?"},
                {"role": "assistant", "content": " ".join(["a", name] * (1 + (number * (turn + 1)) % 4))},
            ]
        found.append({"messages": messages})
    return found


def seen(folder: Path, count: int = 12, without: bool = True) -> list[dict[str, Any]]:
    """Chats of LLaVA's form about pictures of several sizes, some with two, and perhaps every second with none."""
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        shown = 0 if without and number % 2 else 1 + number // 2 % 2
        names = [f"{number}_{place}.png" for place in range(shown)]
        for name in names:
            pixels = random.integers(0, 255, (9 + number, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
        asked = "<image>\n" * shown + "what is it?"
        said = {
            "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": f"a {NAMES[number % 5]}"}]
        }
        rows.append(said | ({} if not names else {"image": names[0] if shown == 1 else names}))
    return rows


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def released(folder: Path) -> Path:
    """A language model of transformers with the tokenizer's vocabulary, and what its shape is in our words."""
    reference("smollm2", vocab_size=VOCAB).save_pretrained(folder)
    return folder


SHAPE = {
    "vocab": VOCAB,
    "context": 128,
    "dim": 32,
    "depth": 2,
    "heads": 4,
    "kv_heads": 2,
    "hidden": 48,
    "theta": 10000.0,
}
"""Of :func:`released`."""
EYE = {"image": "[16,16]", "patch": 8, "dim": 16, "depth": 2, "heads": 2}


def small(prefix: str, values: dict[str, Any]) -> list[str]:
    """Options that change a model's config."""
    return [f"--model.init_args.model.init_args.config.{prefix}{name}={value}" for name, value in values.items()]


def fit(runs: Path, *options: str) -> Path:
    """Train by the command line, and return the run's folder."""
    before = set(runs.rglob("version_*"))
    assert main(["fit", *options, "--runs", str(runs)]) == 0
    (folder,) = set(runs.rglob("version_*")) - before
    return folder


def logged(folder: Path) -> dict[str, list[float]]:
    """What was logged, by name."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}
