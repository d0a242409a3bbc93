"""Throughput: FLOPs by formula, waiting by sleeping, and a run that is the same with and without."""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from core.errors import InputError
from core.nn import packed_tokens
from core.train.cli import main
from core.train.throughput import Throughput, count_samples, peak_matmul


class Slow:
    """Batches of 3 that come late."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __iter__(self) -> Any:
        for _ in range(9):
            time.sleep(self.seconds)
            yield {"x": torch.ones(3, 8)}

    def __len__(self) -> int:
        return 9


class Toy(LightningModule):
    """One matrix and one attention; each step takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8, bias=False)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        time.sleep(0.01)
        x = self.linear(batch["x"])[:, None, None].expand(-1, 2, 4, -1)
        return F.scaled_dot_product_attention(x, x, x).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_figures(tmp_path: Path):
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        callbacks=[Throughput(every=4, peak=1e6)],
        logger=CSVLogger(tmp_path),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    began = time.perf_counter()
    trainer.fit(Toy(), Slow(0.03))
    took = time.perf_counter() - began
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("throughput/step_seconds")]
    assert len(rows) == 2  # the first of nine steps is left out
    for row in rows:
        figures = {name.removeprefix("throughput/"): float(value) for name, value in row.items() if value}
        # of a busy machine all that is known: no wait and no step is shorter than its sleep, and all fit into the run
        assert 0.04 <= figures["step_seconds"] < took / 8
        assert 0.03 <= figures["wait_share"] * figures["step_seconds"] <= figures["step_seconds"] - 0.01
        assert figures["samples_per_second"] == pytest.approx(3 / figures["step_seconds"])
        # matrix: forward and the weight's gradient; attention (3 x 2 heads, 4 x 4, width 8): 2 products, then 5
        flops = 2 * (2 * 3 * 8 * 8) + 7 * (2 * 3 * 2 * 4 * 4 * 8)
        assert figures["flops_per_step"] == flops
        assert figures["utilisation"] == pytest.approx(flops / figures["step_seconds"] / 1e6)
        assert figures["peak_memory_gb"] > 0.05


def test_a_run_with_it_is_the_run_without(config: Callable[..., Path], tmp_path: Path):
    callback = {"class_path": "core.train.throughput.Throughput", "init_args": {"every": 3}}
    path = config(callbacks=[callback], max_epochs=2)
    content = yaml.safe_load(path.read_text())
    content["trainer"].pop("callbacks")
    plain = path.with_name("plain.yaml")
    plain.write_text(yaml.safe_dump(content))
    for file in (path, plain):
        main(["fit", "-c", str(file)])
    folders = [path.parent / "runs" / name / "version_0" for name in ("tiny", "plain")]
    one, other = (torch.load(folder / "last.ckpt", weights_only=True) for folder in folders)
    for name, weight in other["state_dict"].items():
        assert torch.equal(one["state_dict"][name], weight), name
    assert str(one["resume"]) == str(other["resume"])
    assert "throughput/utilisation" in (folders[0] / "metrics.csv").read_text()


def test_samples_of_batches():
    x = torch.zeros(5, 2)
    assert count_samples(x) == 5
    assert count_samples([x[:2], x]) == 2
    assert count_samples({"crops": [x, x], "index": torch.zeros(2)}) == 2
    assert count_samples({"mel": x, "name": "a"}) == 5
    assert count_samples({"ids": x[:1], "tokens": packed_tokens([2, 3, 1])}) == 3
    assert count_samples("nothing") == 0


def test_peak_is_that_of_matrix_products():
    before = torch.get_rng_state()
    assert peak_matmul(torch.device("cpu"), torch.float32) > 1e9
    assert torch.equal(before, torch.get_rng_state())
    for wrong in ({"every": 0}, {"peak": 0.0}):
        with pytest.raises(InputError, match="at least 1"):
            Throughput(**wrong)
