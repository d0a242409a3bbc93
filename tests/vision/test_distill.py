"""Distillation: the losses in closed form, the frozen teacher, the two heads of DeiT, and that a student learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_mae_task import fit, load, recipe
from torch import nn

from core.errors import InputError
from core.train.cli import main
from vision.losses.distill import Cosine, Hard, MeanSquare, SmoothL1, Soft
from vision.tasks.distill import Distill, DistillFeatures, Teacher
from vision.tasks.initial import Pretrained
from vision.vit import ViT, ViTConfig

__all__ = ["recipe"]  # a fixture

SHAPE: dict[str, Any] = {"patch": 4, "channels": 1, "dim": 16, "depth": 2, "heads": 2, "classes": 4}
SMALL = ViTConfig(image=(8, 8), **SHAPE)
DISTILLED = ViTConfig(image=(8, 8), **SHAPE, distilled=True, pool="distilled")


def deit(said: torch.Tensor, echoed: torch.Tensor, told: torch.Tensor, labels: torch.Tensor, **s: Any) -> torch.Tensor:
    """DeiT's loss written out in double precision."""
    label = -said.log_softmax(1)[range(len(labels)), labels].mean()
    if s["kind"] == "hard":
        distillation = -echoed.log_softmax(1)[range(len(labels)), told.argmax(1)].mean()
    else:
        p, q = (told / s["t"]).softmax(1), (echoed / s["t"]).softmax(1)
        distillation = (p * (p.log() - q.log())).sum() * s["t"] ** 2 / p.numel()
    return (1 - s["alpha"]) * label + s["alpha"] * distillation


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("config", [SMALL, DISTILLED])
def test_the_loss_is_deits(config: ViTConfig, kind: str, alpha: float) -> None:
    loss = Hard() if kind == "hard" else Soft(3.0)
    student, teacher = ViT(config), Teacher(ViT(SMALL))
    task = Distill(student, 4, teacher, loss, alpha)
    task.log = task.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    batch = {"image": torch.randn(6, 1, 8, 8), "label": torch.arange(6) % 4}
    task.train()
    found = task.training_step(batch, 0)
    with torch.no_grad():
        told = teacher.model(batch["image"]).double()
        pooled = student.pool(student.features(batch["image"]).x)
        said, echoed = student.head.both(pooled) if config.distilled else (student(batch["image"]),) * 2  # type: ignore[operator]
    expected = deit(said.double(), echoed.double(), told, batch["label"], kind=kind, alpha=alpha, t=3.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    found.backward()
    assert all(p.grad is None for p in teacher.parameters())
    heads = {n for n, p in student.named_parameters() if p.grad is not None and n.startswith("head.") and p.grad.any()}
    if config.distilled and alpha in (0.0, 1.0):  # each head hears one of the two
        assert heads == {f"head.{'cls' if alpha == 0 else 'dist'}.{leaf}" for leaf in ("weight", "bias")}


def test_gradients_of_the_soft_loss_in_closed_form() -> None:
    """d/dz of T^2 KL / (B K) is T (q - p) / (B K)."""
    student = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 7, dtype=torch.float64)
    Soft(2.5)(student, teacher).backward()
    expected = 2.5 * ((student / 2.5).softmax(1) - (teacher / 2.5).softmax(1)) / 35
    torch.testing.assert_close(student.grad, expected.detach())
    with pytest.raises(InputError, match="temperature 0"):
        Soft(0)


def test_the_losses_of_features_in_closed_form() -> None:
    a, b = torch.randn(3, 5, 8, dtype=torch.float64), torch.randn(3, 5, 8, dtype=torch.float64)
    angle = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    torch.testing.assert_close(Cosine()(a, b), 1 - angle.mean())
    torch.testing.assert_close(MeanSquare()(a, b), ((a - b) ** 2).mean())
    white = (b - b.mean(-1, keepdim=True)) / (b.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    d = (a - white).abs()
    torch.testing.assert_close(SmoothL1(0.7)(a, b), torch.where(d < 0.7, d**2 / 1.4, d - 0.35).mean())


def test_the_teacher_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 4))
    task = Distill(ViT(SMALL), 4, Teacher(model, precision="bfloat16"))
    task.train()
    assert not any(module.training for module in task.teacher.modules())
    images = torch.randn(8, 1, 8, 8) * 3
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = task.teacher(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model(images), rtol=0.05, atol=0.05)
    assert not torch.equal(found, model(images))  # it did compute in bfloat16
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(p.requires_grad for p in task.teacher.parameters())


def test_features_of_the_patches() -> None:
    teacher = ViT(ViTConfig(image=(8, 8), patch=4, channels=1, dim=24, depth=1, heads=2, classes=0, registers=2))
    task = DistillFeatures(ViT(SMALL), 4, Teacher(teacher), weight=2.0)
    logged: dict[str, float] = {}
    task.log = lambda name, value, **kwargs: None  # type: ignore[method-assign]
    task.log_dict = lambda values, **kwargs: logged.update({n: float(v) for n, v in values.items()})  # type: ignore[method-assign]
    batch = {"image": torch.randn(6, 1, 8, 8), "label": torch.arange(6) % 4}
    loss = task.training_step(batch, 0)
    with torch.no_grad():
        mine = task.projection(task.model.features(batch["image"]).x[:, 1:])
        theirs = teacher.features(batch["image"]).x[:, 3:]
        distance = 1 - F.cosine_similarity(mine, theirs, -1).mean()
        label = F.cross_entropy(task.model(batch["image"]), batch["label"])
    assert logged["train/distance"] == pytest.approx(distance.item(), rel=1e-5)
    assert loss.item() == pytest.approx((label + 2 * distance).item(), rel=1e-5)
    loss.backward()
    assert task.projection.weight.grad is not None
    with pytest.raises(InputError, match="teacher is a Linear"):
        DistillFeatures(ViT(SMALL), 4, Teacher(nn.Linear(2, 2)))


def test_a_student_learns_from_a_checkpoint(recipe: Callable[..., Path]) -> None:
    shape = {"image": [8, 8], **SHAPE}
    model = {"class_path": "vision.vit.ViT", "init_args": {"config": shape}}
    arguments = {"model": model, "classes": 4, "optim": {"lr": 0.01}}
    taught = fit(recipe("teacher", "vision.tasks.classify.Classify", arguments, max_epochs=4)) / "last.ckpt"
    student = {**shape, "dim": 8, "distilled": True, "pool": "distilled"}
    initial = {"class_path": "vision.tasks.initial.Pretrained", "init_args": {"path": str(taught), "whole": True}}
    arguments = {
        "model": {"class_path": "vision.vit.ViT", "init_args": {"config": student}},
        "classes": 4,
        "teacher": {"class_path": "vision.tasks.distill.Teacher", "init_args": {"model": model, "initial": initial}},
        "loss": {"class_path": "vision.losses.distill.Soft", "init_args": {"temperature": 2.0}},
        "alpha": 0.9,
        "optim": {"lr": 0.01},
    }
    folder = fit(recipe("student", "vision.tasks.distill.Distill", arguments, max_epochs=1))
    found, source = load(folder / "last.ckpt")["state_dict"], load(taught)["state_dict"]
    assert torch.equal(found["teacher.model.head.weight"], source["model.head.weight"])
    taught.unlink()
    main(["validate", "--ckpt_path", str(folder / "last.ckpt")])


def test_a_teacher_with_a_new_head_is_refused(recipe: Callable[..., Path]) -> None:
    shape = {"image": [8, 8], **SHAPE, "classes": 5}
    model = {"class_path": "vision.vit.ViT", "init_args": {"config": shape}}
    path = fit(recipe("five", "vision.tasks.classify.Classify", {"model": model, "classes": 5}, max_epochs=1))
    with pytest.raises(InputError, match="nothing for head"):
        Pretrained(str(path / "last.ckpt"), whole=True)(ViT(SMALL))
