"""The linear probe: a frozen encoder, features once, and scikit-learn's answer in the end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_mae_task import autoencoder, column, fit, load, recipe
from torch import nn

from core.errors import InputError
from core.train.cli import main
from vision.tasks.probe import Probe
from vision.vit import ViT, ViTConfig

__all__ = ["recipe"]  # a fixture

SHAPE: dict[str, Any] = {"patch": 2, "channels": 1, "dim": 16, "depth": 2, "heads": 2, "classes": 0}
ENCODER = ViTConfig(image=(8, 8), **SHAPE, drop_path=0.5)


def test_the_encoder_is_frozen_and_never_in_training() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 16))
    task = Probe(model, 16, 4)
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    task.train()
    assert not any(module.training for module in task.model.modules())
    assert task.head.training
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    task.training_step({"image": torch.randn(8, 1, 8, 8), "label": torch.arange(8) % 4}, 0).backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert {n for n, p in task.named_parameters() if p.requires_grad} == {"head.1.weight", "head.1.bias"}
    assert all(p.grad is None for p in model.parameters())


def test_the_head_is_maes() -> None:
    """A batch norm without scale and shift, then a linear layer (``main_linprobe.py``)."""
    task = Probe(ViT(ENCODER), 16, 4)
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    task.train()
    batch = {"image": torch.randn(8, 1, 8, 8), "label": torch.arange(8) % 4}
    found = task.training_step(batch, 0)
    x = task.model(batch["image"])
    x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-6).sqrt()
    expected = F.cross_entropy(x @ task.head[1].weight.T + task.head[1].bias, batch["label"])
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_features_are_computed_once() -> None:
    task = Probe(ViT(ENCODER), 16, 4, remember=True)
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    task.train()
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    seen: list[int] = []
    task.model.register_forward_hook(lambda module, given, found: seen.append(len(found)))
    direct = task.features(images)
    for rows in ([0, 1, 2, 3], [2, 3, 4, 5], [7, 6, 1, 0], [5, 2, 6, 7]):
        index = torch.tensor(rows)
        found = task._recalled({"image": images[index], "index": index, "label": labels[index]})
        torch.testing.assert_close(found, direct[index], rtol=1e-5, atol=1e-6)
    assert seen == [8, 4, 2, 2]


def test_a_probe_of_a_checkpoint(recipe: Callable[..., Path]) -> None:
    source = fit(recipe("mae", "vision.tasks.mae.MAE", autoencoder(), max_epochs=1)) / "last.ckpt"
    model = {"class_path": "vision.vit.ViT", "init_args": {"config": {"image": [8, 8], **SHAPE, "positions": "sincos"}}}
    arguments = {
        "model": model,
        "dim": 16,
        "classes": 4,
        "remember": True,
        "optim": {"lr": 0.05, "weight_decay": 0.0},
        "initial": {"class_path": "vision.tasks.initial.Pretrained", "init_args": {"path": str(source)}},
    }
    path = recipe("probe", "vision.tasks.probe.Probe", arguments, max_epochs=8)
    folder = fit(path)
    state, weights = load(folder / "last.ckpt")["state_dict"], load(source)["state_dict"]
    name = "blocks.1.mlp.fn.fc2.weight"
    assert torch.equal(state[f"model.{name}"], weights[f"ema.encoder.{name}"])
    assert column(folder, "val/accuracy")[-1] > 0.9
    source.unlink()
    main(["validate", "--ckpt_path", str(folder / "last.ckpt")])
    small = "{class_path: vision.augment.Small, init_args: {mean: [0.3], std: [0.3], shift: 1}}"
    with pytest.raises(InputError, match="can't be remembered"):
        fit(path, "--ckpt_path", str(folder / "last.ckpt"), f"--data.augment={small}")


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(InputError, match=r"returns \(2, 16\), expected \(batch, 8\)"):
        Probe(ViT(ENCODER), 8, 4)(torch.randn(2, 1, 8, 8))
