"""Gram anchoring against its closed form in float64."""

import numpy as np
import torch

from vision.losses import GramLoss


def test_closed_form() -> None:
    student = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    anchor = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    loss = GramLoss()(student, anchor)
    total = 0.0
    for one, other in zip(student.detach().numpy(), anchor.detach().numpy(), strict=True):
        one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
        total += np.linalg.norm(one @ one.T - other @ other.T, "fro") ** 2
    np.testing.assert_allclose(loss.item(), total / (3 * 5 * 5), rtol=1e-12)
    loss.backward()
    assert student.grad is not None
    assert anchor.grad is None
    assert torch.autograd.gradcheck(lambda x: GramLoss()(x, anchor), (student,))


def test_same_patches_in_any_rotation_are_no_loss() -> None:
    patches = torch.randn(2, 9, 4, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    assert GramLoss()(3 * patches @ turn, patches) < 1e-24
