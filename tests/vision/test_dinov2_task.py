"""DINOv2's task: the packed pass against crop by crop, its parts against lightly's, masks, Gram anchoring."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from selfdistill import HEAD, SHAPE, Crops, dinov2, fit, load

from core.errors import InputError
from vision.tasks.dinov2 import DINOv2, Gram
from vision.vit import ViT, ViTConfig


def test_packed_equals_crop_by_crop() -> None:
    model = ViT(ViTConfig(**SHAPE, registers=2, mask_token=True))
    torch.nn.init.normal_(model.mask_token)
    groups = [torch.randn(6, 1, 16, 16), torch.randn(9, 1, 8, 8)]
    masked = torch.rand(6, 16) < 0.3
    weights = [torch.randn(6, 19, 16), torch.randn(9, 7, 16)]

    def gradients(outputs: list[Any]) -> dict[str, Any]:
        model.zero_grad()
        torch.stack([(x * w).sum() for x, w in zip(outputs, weights, strict=True)]).sum().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    packed = model.packed(groups, [masked, None])
    found = gradients(packed)
    alone = [
        torch.cat([model.features(images[i : i + 1], masked=None if mask is None else mask[i : i + 1]).x for i in rows])
        for images, mask, rows in zip(groups, (masked, None), (range(6), range(9)), strict=True)
    ]
    for one, other in zip(packed, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    for name, expected in gradients(alone).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_parts_are_those_of_lightly(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    task = dinov2(ibot_head=None if shared else HEAD, gram=None, koleo=0.3, ibot=0.7)
    logged: dict[str, float] = {}
    monkeypatch.setattr(DINOv2, "_progress", lambda self: (0, 10))
    monkeypatch.setattr(
        DINOv2, "log", lambda self, name, value, **options: logged.update({name: float(value.detach())})
    )
    masked = torch.rand(8, 16) < 0.4
    monkeypatch.setattr(DINOv2, "_masks", lambda self, views, batch_idx: masked)
    with torch.no_grad():
        for weight in task.teacher.parameters():
            weight += 0.05 * torch.randn_like(weight)
    batch = Crops().__getitems__([(0, index) for index in range(4)])
    task.training_step(batch, 0)

    views, others = batch["crops"]
    patch_head = "dino" if shared else "ibot"
    with torch.no_grad():
        seen = task.encoder().features(views).x
        teacher = task.teacher["heads"]["dino"](seen[:, 0]).split(4)
        teacher_patches = task.teacher["heads"][patch_head](seen[:, 2:][masked])
        shown = task.model.features(views, masked=masked).x
        student = task.heads["dino"](torch.cat([shown[:, 0], task.model.features(others).x[:, 0]])).split(4)
        expected = {
            "dino": DINOLoss(32)(list(teacher), list(student), teacher_temp=0.04),
            "ibot": 0.7
            * IBOTPatchLoss(32)(
                teacher_patches, task.heads[patch_head](shown[:, 2:][masked]), masked.view(8, 4, 4), teacher_temp=0.04
            ),
            "koleo": 0.3 * (KoLeoLoss()(shown[:4, 0]) + KoLeoLoss()(shown[4:, 0])),
        }
    expected["loss"] = torch.stack(list(expected.values())).sum()
    assert logged == pytest.approx({f"train/{name}": float(value) for name, value in expected.items()}, rel=1e-5)


def test_masks_of_processes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Place:
        global_rank, world_size, current_epoch = 0, 1, 2

    task = dinov2(gram=None)
    monkeypatch.setattr(DINOv2, "trainer", property(lambda self: Place))
    whole = task._masks(torch.zeros(16, 1, 16, 16), 3)
    assert 0.2 < whole.any(1).float().mean() <= 0.5  # a mask of one block of four patches is the smallest
    Place.world_size = 2
    for rank in range(2):
        Place.global_rank = rank
        rows = [*range(4 * rank, 4 * rank + 4), *range(8 + 4 * rank, 12 + 4 * rank)]
        assert torch.equal(task._masks(torch.zeros(8, 1, 16, 16), 3), whole[rows])


def test_gram_teacher_is_an_earlier_teacher(tmp_path: Path) -> None:
    task = dinov2(gram=Gram(weight=2.0, begin=0.5, renew=0.25))  # of 12 steps: taken before steps 6 and 9
    kept = fit(task, tmp_path, (6, 7, 8, 9, 10))
    assert ["train/gram" in losses for losses in kept.losses] == [False] * 6 + [True] * 6
    states = {step: load(tmp_path, step)["state_dict"] for step in (6, 7, 8, 9, 10)}
    for source, steps in ((6, (7, 8, 9)), (9, (10,))):
        for name, weight in states[source].items():
            if name.startswith("teacher.model."):
                for step in steps:
                    assert torch.equal(states[step][name.replace("teacher.model.", "anchor.")], weight)


def test_sinkhorn_trains(tmp_path: Path) -> None:
    kept = fit(dinov2(centring="sinkhorn", ibot_head=None, gram=None, freeze=0), tmp_path, ())
    assert all(np.isfinite(list(losses.values())).all() for losses in kept.losses)
    assert set(kept.losses[0]) >= {"train/dino", "train/ibot", "train/koleo", "train/loss"}


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(InputError, match="mask_token"):
        DINOv2(ViT(ViTConfig(**SHAPE)), HEAD)
    with pytest.raises(InputError, match="renew"):
        Gram(renew=0.0)
