"""Two processes: the loss curve of one, exact resuming, and going on with another number of processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_resume import EACH, assert_same_end, curve, load

from core.train.cli import main

ROOT = Path(__file__).parents[2]
DDP = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
SECONDS = 150


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def _pair(folder: Path, runs: list[list[str]]) -> None:
    """Do several runs on the same two processes, found as torchrun would have started them."""
    script = folder / "arguments.json"
    script.write_text(json.dumps(runs))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
    }
    command = [sys.executable, str(Path(__file__).with_name("processes.py")), str(script)]
    started = [
        subprocess.Popen(
            command,
            env=_environment(RANK=str(rank), LOCAL_RANK=str(rank), TORCHELASTIC_RUN_ID="test", **shared),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(outputs)


def _numbers(folder: Path, start: int = 0) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in row} for row in curve(folder, start)]


def _assert_close(one: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_two_processes(config: Callable[..., Path], tmp_path: Path):
    """All in one test, since each start of two processes costs some ten seconds."""
    runs = tmp_path / "runs"
    quiet = config(noise=0.0, **EACH).rename(tmp_path / "quiet.yaml")
    noisy = config(noise=0.5, **EACH).rename(tmp_path / "noisy.yaml")

    # one process, as the others are compared with it
    main(["fit", "-c", str(quiet), "--name", "one"])
    one = runs / "one" / "version_0"

    # two processes by the command line alone
    command = [sys.executable, "-m", "sensorium", "fit", "-c", str(quiet), "--name", "two", *DDP]
    subprocess.run(command, env=_environment(), cwd=tmp_path, check=True, timeout=SECONDS)
    two = runs / "two" / "version_0"
    assert {path.name for path in runs.iterdir()} == {"one", "two"}
    _assert_close(_numbers(two), _numbers(one))
    for name, weight in load(one / "last.ckpt")["state_dict"].items():
        torch.testing.assert_close(load(two / "last.ckpt")["state_dict"][name], weight, rtol=1e-3, atol=1e-4)

    def at(folder: Path, step: int) -> list[str]:
        return ["--ckpt_path", str(next(folder.rglob(f"at-step={step}.ckpt")))]

    fit = ["fit", "-c", str(noisy), *DDP]
    noisy_run = runs / "noisy" / "version_0"
    checkpoint = noisy_run / "checkpoints" / "at-step=15.ckpt"
    _pair(
        tmp_path,
        [
            [*fit, "--name", "noisy"],
            [*fit, "--name", "noisy_resumed", "--ckpt_path", str(checkpoint)],
            ["fit", "-c", str(quiet), "--name", "one_to_two", *DDP, *at(one, 15)],
            ["test", "--ckpt_path", str(two / "last.ckpt"), "--name", "test_two", *DDP],
            ["predict", "--ckpt_path", str(two / "last.ckpt"), "--name", "predict_two", *DDP],
        ],
    )

    # stopped and resumed on two: bit for bit, with random states that differ between the ranks
    states = load(checkpoint)["resume"]["random"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
    assert_same_end(noisy_run, runs / "noisy_resumed" / "version_0")
    assert curve(runs / "noisy_resumed" / "version_0", 15) == curve(noisy_run, 15)

    # from one to two processes and from two to one: the same curve goes on
    _assert_close(_numbers(runs / "one_to_two" / "version_0", 15), _numbers(one, 15))
    main(["fit", "-c", str(quiet), "--name", "two_to_one", *at(two, 15)])
    _assert_close(_numbers(runs / "two_to_one" / "version_0", 15), _numbers(one, 15))

    # every image is measured and predicted exactly once, in the order of the data
    main(["test", "--ckpt_path", str(two / "last.ckpt"), "--name", "test_one"])
    main(["predict", "--ckpt_path", str(two / "last.ckpt"), "--name", "predict_one"])
    _assert_close(_numbers(runs / "test_two" / "version_0"), _numbers(runs / "test_one" / "version_0"))
    tables = [(runs / name / "version_0" / "predictions.csv").read_text() for name in ("predict_one", "predict_two")]
    rows = [[line.split(",")[:2] for line in table.splitlines()] for table in tables]
    assert rows[0] == rows[1]
    assert [image for image, _ in rows[0][1:]] == [str(number) for number in range(20)]
