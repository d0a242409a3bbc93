"""Contrastive training: two processes learn what one does, and stopped and resumed is not stopped."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sensorium.cli import main

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "multimodal"
CALLBACK = (
    '[{"class_path": "multimodal.tasks.evaluate.EvaluatePairs"}, '
    '{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", '
    '"init_args": {"filename": "at-{step}", "every_n_train_steps": 3, "save_top_k": -1}}]'
)


def options(name: str, runs: Path, run: str) -> list[str]:
    shape = {"image.init_args.dim": 16, "image.init_args.depth": 1, "image.init_args.heads": 2}
    shape |= {"text.dim": 16, "text.depth": 1, "text.heads": 2, "text.embed": 16}
    small = [f"--model.init_args.model.init_args.config.{key}={value}" for key, value in shape.items()]
    data = ["--data.few=128", "--data.batch_size=32", "--data.workers=0", "--data.hold_out=0.02"]
    trainer = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
    trainer += ["--trainer.precision=32-true"]  # bfloat16 rounds differently where a process has half of the rows
    trainer += [f"--trainer.callbacks={CALLBACK}", "--test_after_fit=false", "--model.ema=0.9"]
    return ["fit", "-c", str(CONFIGS / f"{name}.yaml"), *small, *data, *trainer, "--runs", str(runs), "--name", run]


def curve(folder: Path, start: int = 0) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if row["step"] >= start]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


# what is SigLIP's own is its loss, whose shares of processes are compared in test_contrastive_losses
NAMES = ["clip_fashion_mnist", pytest.param("siglip_fashion_mnist", marks=pytest.mark.thorough)]


@pytest.mark.parametrize("name", NAMES)
def test_resumed_is_not_stopped(name: str, tmp_path: Path) -> None:
    main(options(name, tmp_path, "whole"))
    whole = tmp_path / "whole" / "version_0"
    main(["fit", "--ckpt_path", str(next(whole.rglob("at-step=3.ckpt"))), "--runs", str(tmp_path), "--name", "resumed"])
    resumed = tmp_path / "resumed" / "version_0"
    assert curve(resumed, 3) == curve(whole, 3)
    one, other = weights(whole), weights(resumed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_learn_what_one_does(name: str, tmp_path: Path) -> None:
    main(options(name, tmp_path, "one"))
    pair = [*options(name, tmp_path, "two"), "--trainer.devices=2", "--trainer.strategy=ddp"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "sensorium", *pair], env=environment, cwd=ROOT, check=True, timeout=240)
    one, two = tmp_path / "one" / "version_0", tmp_path / "two" / "version_0"
    rows = curve(one), curve(two)
    assert len(rows[0]) == len(rows[1]) > 8
    for alone, shared in zip(*rows, strict=True):
        for key, value in alone.items():
            # ranks of a hundred images after a few steps: one of them may be a tie
            counted = "zero_shot" in key or "R@" in key
            assert shared[key] == pytest.approx(value, rel=1e-4, abs=0.011 if counted else 1e-5), key
    expected = weights(one)
    for key, tensor in weights(two).items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-3, atol=1e-4, msg=key)
