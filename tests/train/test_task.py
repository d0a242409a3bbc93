"""The base task: the average is what is evaluated, both sets of weights are stored, precisions and clipping."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_resume import curve, fit, load

from core.data.idx import Idx
from core.data.sets import hold_out
from core.errors import InputError
from core.train.task import Task
from vision.augment import Small
from vision.vit import ViT, ViTConfig


def test_the_average_is_evaluated_and_the_weights_in_training_are_kept(config: Callable[..., Path], idx_folder: Path):
    folder = fit(config(max_epochs=1))
    # best.ckpt is written during validation, when the average is in the model; last.ckpt after it
    best, last = load(folder / "best.ckpt")["state_dict"], load(folder / "last.ckpt")["state_dict"]
    assert best.keys() == last.keys()
    assert all(torch.equal(best[name], weight) for name, weight in last.items())
    assert not torch.equal(last["model.head.weight"], last["ema.head.weight"])

    model = ViT(ViTConfig(image=(8, 8), patch=4, channels=1, dim=16, depth=2, heads=2, classes=4))
    model.load_state_dict({name.removeprefix("ema."): w for name, w in last.items() if name.startswith("ema.")})
    images = Idx().open(idx_folder, "train")
    assert images is not None
    _, held = hold_out(images, 0.2)
    with torch.no_grad():
        logits = model.eval()(Small([0.3], [0.3])(held.read(range(len(held))), None))
    loss = F.cross_entropy(logits, torch.from_numpy(held.labels))
    (logged,) = [float(dict(row)["val/loss"]) for row in curve(folder) if "val/loss" in dict(row)]
    assert loss.item() == pytest.approx(logged, rel=1e-5)


def test_precisions(config: Callable[..., Path]):
    def losses(folder: Path) -> list[float]:
        return [float(dict(row)["train/loss"]) for row in curve(folder) if "train/loss" in dict(row)]

    exact = losses(fit(config(max_epochs=1)))
    for precision, dtype in (("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)):
        folder = fit(config(max_epochs=1, precision=precision))
        weights = load(folder / "last.ckpt")["state_dict"]
        assert weights["ema.head.weight"].dtype == torch.float32
        assert weights["model.head.weight"].dtype == dtype
        assert losses(folder) == pytest.approx(exact, rel=0.05), precision


@pytest.mark.parametrize(("algorithm", "norm"), [("norm", 0.5), ("value", math.sqrt(3 * 0.5**2))])
def test_clipping(algorithm: str, norm: float):
    weight = torch.nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([30.0, -40.0, 50.0])
    task, optimizer = Task(torch.nn.Identity()), torch.optim.SGD([weight])
    task.configure_gradient_clipping(optimizer)
    assert weight.grad.norm() > 70
    task.configure_gradient_clipping(optimizer, 0.5, algorithm)
    assert weight.grad.norm().item() == pytest.approx(norm, rel=1e-4)


def test_impossible_averages_are_refused():
    with pytest.raises(InputError, match=r"ema 1\.0"):
        Task(torch.nn.Linear(2, 2), ema=1.0)
