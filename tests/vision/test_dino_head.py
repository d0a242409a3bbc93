"""The head equals lightly's, and a course equals that of facebookresearch/dino."""

import numpy as np
import torch
from lightly.models.modules import DINOProjectionHead

from core.train.course import Cosine, Ramp
from vision.dino_head import DINOHead, HeadConfig


def test_equals_lightly() -> None:
    theirs = DINOProjectionHead(12, 20, 8, 30).double()
    ours = DINOHead(12, HeadConfig(30, 20, 8)).double()
    source = theirs.state_dict()
    names = {"last_layer.weight_g": "last.scale", "last_layer.weight_v": "last.weight"}
    ours.load_state_dict({names.get(name, name.replace("layers.", "mlp.")): x for name, x in source.items()})
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    one, expected = ours(x), theirs(other)
    weights = torch.randn_like(one)
    (one * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(one, expected)
    torch.testing.assert_close(x.grad, other.grad)
    torch.testing.assert_close(ours.last.weight.grad, theirs.last_layer.weight_v.grad)
    assert ours.last.scale.grad is None  # of constant length, as in DINO


def test_courses() -> None:
    steps = np.arange(50)
    expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * steps / 50))
    np.testing.assert_allclose([Cosine(0.04, 0.4).at(int(step), 50) for step in steps], expected)
    assert Cosine(0.04, 0.4).at(70, 50) == 0.4
    ramp = [Ramp(0.04, 0.07, 0.2).at(step, 50) for step in range(12)]
    np.testing.assert_allclose(ramp, [*(0.04 + 0.003 * np.arange(10)), 0.07, 0.07])
    assert Ramp(0.04, 0.07, 0.0).at(0, 50) == 0.07
