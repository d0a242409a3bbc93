"""DINO's task: its loss, its teacher, its courses; stopped and resumed is not stopped; two processes are one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightly.loss import DINOLoss as LightlyDINO
from selfdistill import Crops, dino, dinov2, fit, load
from torch import Tensor

from core.errors import InputError
from core.train.course import Cosine
from vision.dino_head import HeadConfig
from vision.tasks.dino import DINO
from vision.vit import ViT, ViTConfig


def same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the last bit."""
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{where}.{number}")
    else:
        assert one == other, where


def test_loss_is_that_of_lightly_crop_by_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    task = dino()
    monkeypatch.setattr(DINO, "_progress", lambda self: (0, 10))
    monkeypatch.setattr(DINO, "log", lambda self, *args, **options: None)
    with torch.no_grad():  # a teacher that differs
        for weight in task.teacher.parameters():
            weight += 0.05 * torch.randn_like(weight)
    batch = Crops().__getitems__([(0, index) for index in range(4)])
    loss = task.training_step(batch, 0)
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in task.named_parameters() if weight.grad is not None}
    task.zero_grad()
    crops = [crop for group in batch["crops"] for crop in group.split(4)]
    teacher = [task.teacher["heads"]["dino"](task.encoder()(crop)) for crop in crops[:2]]
    student = [task.heads["dino"](task.model(crop)) for crop in crops]
    expected = LightlyDINO(32)([t.detach() for t in teacher], student, teacher_temp=0.04)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert {name.partition(".")[0] for name in found} == {"model", "heads"}
    for name, weight in task.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-5)


def test_teacher_follows_and_courses_hold(tmp_path: Path) -> None:
    task = dino(momentum=Cosine(0.9, 1.0))
    assert task.encoder() is task.teacher["model"]
    fit(task, tmp_path, (1, 2, 4, 5, 12))
    states = {step: load(tmp_path, step)["state_dict"] for step in (1, 2, 4, 5, 12)}
    momentum = Cosine(0.9, 1.0).at(1, 12)
    for name, after in states[2].items():
        if name.startswith("model."):
            expected = momentum * states[1][f"teacher.{name}"] + (1 - momentum) * after
            torch.testing.assert_close(states[2][f"teacher.{name}"], expected)
    # the prototypes rest for an epoch of four steps, the rest of the head does not
    last = "heads.dino.last.weight"
    assert torch.equal(states[1][last], states[4][last])
    assert not torch.equal(states[4][last], states[5][last])
    assert not torch.equal(states[1]["heads.dino.mlp.0.weight"], states[2]["heads.dino.mlp.0.weight"])
    decays = {g["name"]: g["weight_decay"] for g in load(tmp_path, 12)["optimizer_states"][0]["param_groups"]}
    assert decays == {"decay": pytest.approx(Cosine(0.04, 0.4).at(11, 12)), "no_decay": 0.0}
    assert states[12]["dino.centring.value"].any()


@pytest.mark.parametrize("make", [dino, dinov2])
def test_resumed_is_not_stopped(make: Any, tmp_path: Path) -> None:
    whole = fit(make(noise=0.3), tmp_path / "whole", (3, 6, 12))
    for step in (3, 6):
        resumed = fit(make(noise=0.3), tmp_path / "resumed", (12,), tmp_path / "whole" / f"{step}.ckpt")
        assert resumed.losses == whole.losses[step:]
        one, other = load(tmp_path / "whole", 12), load(tmp_path / "resumed", 12)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "resume", "global_step", "epoch"):
            same(one[key], other[key], key)


@pytest.mark.slow
# DINO's loss is part of both
@pytest.mark.parametrize("make", [pytest.param(dino, marks=pytest.mark.thorough), dinov2])
def test_two_processes_are_one(make: Any, tmp_path: Path) -> None:
    fit(make(), tmp_path / "one", (12,))
    fit(make(), tmp_path / "two", (12,), devices=2, strategy="ddp_spawn")
    one, two = (load(tmp_path / name, 12)["state_dict"] for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=2e-3, atol=2e-4, msg=lambda text, name=name: name + text)


def test_not_a_number_is_named(tmp_path: Path) -> None:
    task = dinov2()
    step = task.training_step

    def broken(batch: Any, batch_idx: int) -> Tensor:
        factor = float("nan") if task.trainer.global_step == 2 else 1.0
        return step({"crops": [batch["crops"][0] * factor, batch["crops"][1]]}, batch_idx)

    task.training_step = broken  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"step 2 is not finite \(dino is nan, ibot is nan, koleo is nan\)"):
        fit(task, tmp_path)


def test_what_can_not_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="classes 10 to 0"):
        DINO(ViT(ViTConfig(image=(8, 8), patch=4, dim=8, depth=1, heads=1, classes=10)), HeadConfig(4, 4, 4))
    with pytest.raises(InputError, match="bf16-mixed"):
        fit(dino(), tmp_path, precision="bf16-true")
    with pytest.raises(InputError, match="momentum"):
        dino(momentum=Cosine(1.5, 1.0))


def test_starts_from_a_training_of_others(tmp_path: Path) -> None:
    from vision.dino_weights import Network, export_network

    other = dino()
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.1
    heads: Any = other.teacher["heads"]
    teacher = export_network(Network(other.encoder(), heads), "dino")
    student = export_network(Network(other.student(), other.heads), "dino")  # type: ignore[arg-type]
    centre = torch.randn(1, 32)
    path = tmp_path / "released.pth"
    torch.save({"student": student, "teacher": teacher, "dino_loss": {"center": centre}}, path)
    task = dino(start=str(path), momentum=Cosine(1.0, 1.0))
    fit(task, tmp_path, ())
    for name, weight in other.teacher.state_dict().items():
        assert torch.equal(task.teacher.state_dict()[name], weight)
    fit(dino(start=str(path)), tmp_path, (2,))
    path.unlink()  # a run that goes on does not ask for it again
    fit(dino(start=str(path)), tmp_path, (12,), tmp_path / "2.ckpt")
