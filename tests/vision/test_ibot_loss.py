"""iBOT's loss equals lightly's, gradients and centre included."""

import pytest
import torch
from lightly.loss import IBOTPatchLoss

from vision.losses import Centre, IBOTLoss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_lightly(dtype: torch.dtype) -> None:
    ours = IBOTLoss(Centre(24)).to(dtype)
    theirs = IBOTPatchLoss(24).to(dtype)
    for seed in range(3):
        masked = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(seed)) < 0.4
        masked[2] = False
        count = int(masked.sum())
        teacher = torch.randn(count, 24, dtype=dtype)
        student = torch.randn(count, 24, dtype=dtype, requires_grad=True)
        other = student.detach().clone().requires_grad_()
        loss = ours(student, teacher, masked.flatten(1), 0.05)
        expected = theirs(teacher, other, masked, teacher_temp=0.05)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
        assert student.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(student.grad, other.grad, rtol=1e-5, atol=1e-6)
        assert isinstance(ours.centring, Centre)
        torch.testing.assert_close(ours.centring.value, theirs.center.value.flatten(), rtol=1e-6, atol=1e-7)


def test_no_mask_is_no_loss() -> None:
    loss = IBOTLoss(Centre(8))
    student = torch.zeros(0, 8, requires_grad=True)
    value = loss(student, torch.zeros(0, 8), torch.zeros(2, 4, dtype=torch.bool), 0.1)
    value.backward()
    assert value == 0
    assert isinstance(loss.centring, Centre)
    assert not loss.centring.value.any()
