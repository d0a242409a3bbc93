"""Stopped and resumed is, bit for bit, not stopped: on one process here, on two in ``test_processes.py``."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import InputError
from core.train.cli import main
from core.train.resume import random_state, set_random_state
from vision.tasks.classify import Classify

EACH = {  # keeps a checkpoint of every fifth step, and of the end of every epoch
    "callbacks": [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"filename": "at-{step}", "every_n_train_steps": 5, "save_top_k": -1},
        },
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"filename": "end-{epoch}", "every_n_epochs": 1, "save_top_k": -1},
        },
    ]
}


def fit(config: Path, *options: str) -> Path:
    """Train, and return the run's folder."""
    runs = config.parent / "runs" / "tiny"
    before = set(runs.glob("*"))
    main(["fit", "-c", str(config), *options])
    (folder,) = set(runs.glob("*")) - before
    return folder


def curve(folder: Path, start: int = 0) -> list[tuple[str, ...]]:
    """What was logged at each step, without what depends on the clock."""
    with (folder / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    return [tuple(sorted(row.items())) for row in rows if int(row["step"]) >= start]


def load(path: Path) -> dict[str, Any]:
    """A checkpoint."""
    return torch.load(path, weights_only=True)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the last bit, tensors and all."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}.{number}")
    else:
        assert one == other, where


def assert_same_end(one: Path, other: Path) -> None:
    """The last checkpoints of two runs agree in weights, average, optimizer, schedule and every random state."""
    first, second = load(one / "last.ckpt"), load(other / "last.ckpt")
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "resume", "global_step", "epoch"):
        assert_same(first[key], second[key], key)
    assert any(name.startswith("ema.") for name in first["state_dict"])


@pytest.fixture
def whole(config: Callable[..., Path]) -> tuple[Path, Path]:
    """A configuration, and a run of it that nobody stopped, with its checkpoints on the way."""
    path = config(**EACH)
    return path, fit(path)


def test_resumed_from_anywhere_is_not_stopped(whole: tuple[Path, Path]):
    config, folder = whole
    end = load(folder / "last.ckpt")
    assert end["global_step"] == 30
    # in the middle of an epoch, at its last batch before the validation, after the validation
    for name, step in (("at-step=5", 5), ("at-step=15", 15), ("at-step=20", 20), ("end-epoch=0", 10)):
        checkpoint = next(folder.rglob(f"{name}*.ckpt"))
        assert load(checkpoint)["global_step"] == step
        resumed = fit(config, "--ckpt_path", str(checkpoint))
        assert_same_end(folder, resumed)
        assert curve(resumed, step) == curve(folder, step)


def test_stopped_by_hand(config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    path = config()
    folder = fit(path)
    step = Classify.training_step

    def stop(task: Classify, batch: Any, batch_idx: int) -> Any:
        if task.current_epoch == 1 and batch_idx == 7:
            raise KeyboardInterrupt
        return step(task, batch, batch_idx)

    monkeypatch.setattr(Classify, "training_step", stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(path, "--save_every", "3")
    monkeypatch.undo()
    last = path.parent / "runs" / "tiny" / "version_1" / "last.ckpt"
    assert load(last)["global_step"] == 15
    # the checkpoint alone is enough to go on, and knows that there are 3 epochs
    before = set((path.parent / "runs" / "tiny").glob("*"))
    main(["fit", "--ckpt_path", str(last)])
    (resumed,) = set((path.parent / "runs" / "tiny").glob("*")) - before
    assert_same_end(folder, resumed)
    assert curve(resumed, 15) == curve(folder, 15)
    # also in what was the best so far, which may have been before the stop
    assert_same(_best_scores(load(resumed / "last.ckpt")), _best_scores(load(folder / "last.ckpt")))


def _best_scores(checkpoint: dict[str, Any]) -> list[Any]:
    (state,) = (state for key, state in checkpoint["callbacks"].items() if key.startswith("Best"))
    return [state["best_model_score"], state["kth_value"]]


def test_order_is_that_of_the_batches_whatever_reads_them(config: Callable[..., Path]):
    path = config(noise=0.0, max_epochs=1)
    assert curve(fit(path)) == curve(fit(path, "--data.workers", "2"))
    assert curve(fit(path)) != curve(fit(path, "--seed_everything", "1"))


def test_accumulation_equals_the_larger_batch(config: Callable[..., Path]):
    # without mixing, whose ratio is drawn for each batch
    options = ["--model.mix", "null", "--model.optim.lr", "0.001"]
    path = config(noise=0.0, max_epochs=1)
    whole = load(fit(path, *options) / "last.ckpt")
    parts = load(fit(path, *options, "--data.batch_size", "4", "--trainer.accumulate_grad_batches", "2") / "last.ckpt")
    assert whole["global_step"] == parts["global_step"] == 10
    for name, weight in whole["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][name], weight, rtol=1e-4, atol=1e-5)


def test_other_data_is_refused(whole: tuple[Path, Path]):
    config, folder = whole
    with pytest.raises(InputError, match="data batch 8, now it is 4"):
        fit(config, "--ckpt_path", str(folder / "last.ckpt"), "--data.batch_size", "4", "--trainer.max_epochs", "4")


def test_random_states_go_around():
    state = random_state()
    draws = [torch.rand(3).tolist(), np.random.rand(3).tolist(), np.random.randn(1).tolist()]
    set_random_state(state)
    assert draws == [torch.rand(3).tolist(), np.random.rand(3).tolist(), np.random.randn(1).tolist()]
