"""DINO's loss and both ways of centring equal lightly's; two processes equal one."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightly.loss import DINOLoss as LightlyDINO
from lightly.loss.swav_loss import sinkhorn
from torch import Tensor

from vision.losses import Centre, DINOLoss, IBOTLoss, KoLeoLoss, SinkhornKnopp, soft_cross_entropy

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=TOLERANCE[one.dtype], atol=TOLERANCE[one.dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("crops", "views"), [(2, 2), (5, 2), (3, 1), (1, 2)])
def test_equals_lightly(dtype: torch.dtype, crops: int, views: int) -> None:
    prototypes = 40
    ours = DINOLoss(Centre(prototypes)).to(dtype)
    theirs = LightlyDINO(prototypes).to(dtype)
    for _ in range(3):
        teacher = torch.randn(views, 6, prototypes, dtype=dtype)
        student = torch.randn(crops, 6, prototypes, dtype=dtype, requires_grad=True)
        other = student.detach().clone().requires_grad_()
        loss = ours(student, teacher, 0.05)
        expected = theirs(list(teacher), list(other), teacher_temp=0.05)
        loss.backward()
        expected.backward()
        # lightly makes a float32 tensor of the temperature
        rounded = 1e-6 if dtype == torch.float64 else TOLERANCE[dtype]
        torch.testing.assert_close(loss, expected, rtol=rounded, atol=1e-6)
        assert student.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(student.grad, other.grad, rtol=1e-5, atol=1e-6)
        assert isinstance(ours.centring, Centre)
        close(ours.centring.value, theirs.center.flatten())


def test_one_crop_has_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="at least two"):
        DINOLoss(Centre(4))(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.04, 0.07])
def test_sinkhorn_equals_lightly(dtype: torch.dtype, temperature: float) -> None:
    logits = torch.randn(12, 30, dtype=dtype).clamp(-1, 1)
    close(SinkhornKnopp()(logits, temperature), sinkhorn(logits, 3, temperature))
    assert SinkhornKnopp()(logits * 4, 0.04).isfinite().all()  # lightly's overflows here


def test_soft_cross_entropy_is_that_of_torch() -> None:
    logits = torch.randn(3, 4, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(4, 7, dtype=torch.float64)
    expected = -(targets * (logits / 0.1).log_softmax(-1)).sum(-1)
    torch.testing.assert_close(soft_cross_entropy(logits, targets, 0.1), expected)
    assert torch.autograd.gradcheck(lambda x: soft_cross_entropy(x, targets, 0.1), (logits,))


def _shares(kind: str) -> dict[str, Any]:
    """Eight images' logits and features, seven masked patches of which rank 0 has five, the same on every process."""
    make = torch.Generator().manual_seed(3)
    masked = torch.zeros(4, 4, dtype=torch.bool)
    masked[0, :3], masked[1, 1:3], masked[3, 2:] = True, True, True
    return {
        "student": torch.randn(3, 4, 10, generator=make, dtype=torch.float64),
        "teacher": torch.randn(2, 4, 10, generator=make, dtype=torch.float64),
        "student_patches": torch.randn(7, 10, generator=make, dtype=torch.float64),
        "teacher_patches": torch.randn(7, 10, generator=make, dtype=torch.float64),
        "masked": masked,
        "features": torch.randn(4, 5, generator=make, dtype=torch.float64),
    }


def _losses(kind: str, images: slice, patches: slice) -> dict[str, Tensor]:
    """Losses, gradients and centres of a share of the batch."""
    given = _shares(kind)
    centring = [Centre(10).double() if kind == "centre" else SinkhornKnopp() for _ in range(2)]
    student = given["student"][:, images].clone().requires_grad_()
    student_patches = given["student_patches"][patches].clone().requires_grad_()
    features = given["features"][images].clone().requires_grad_()
    found: dict[str, Tensor] = {}
    for _ in range(2):  # the second time with a centre that isn't zero
        found["dino"] = DINOLoss(centring[0])(student, given["teacher"][:, images], 0.05)
        found["ibot"] = IBOTLoss(centring[1])(
            student_patches, given["teacher_patches"][patches], given["masked"][images], 0.05
        )
    found["koleo"] = KoLeoLoss()(features)
    (found["dino"] + found["ibot"] + found["koleo"]).backward()
    assert student.grad is not None
    assert student_patches.grad is not None
    assert features.grad is not None
    grads = {"student": student.grad.transpose(0, 1), "patches": student_patches.grad, "features": features.grad}
    centres = {f"centre{i}": c.value for i, c in enumerate(centring) if isinstance(c, Centre)}
    return {**{name: loss.detach() for name, loss in found.items()}, **grads, **centres}


def _process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=2)
    images, patches = (slice(0, 2), slice(0, 5)) if rank == 0 else (slice(2, 4), slice(5, 7))
    torch.save({kind: _losses(kind, images, patches) for kind in ("centre", "sinkhorn")}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, (port, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for kind in ("centre", "sinkhorn"):
        whole = _losses(kind, slice(None), slice(None))
        for name, expected in whole.items():
            one, other = (part[kind][name] for part in parts)
            if name in ("student", "patches", "features"):  # gradients: DDP averages what the processes pass on
                torch.testing.assert_close(torch.cat([one, other]) / 2, expected)
            else:
                torch.testing.assert_close((one + other) / 2, expected)
                assert name in ("dino", "ibot") or torch.equal(one, other)
