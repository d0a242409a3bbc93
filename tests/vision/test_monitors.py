"""The monitors of collapse against closed forms."""

import math

import pytest
import torch

from core.train.collapse import assignment_entropies, effective_rank, rank_me, spread, trouble
from vision.vit import ViT, ViTConfig


def test_ranks_of_known_spectra():
    # singular values 3, 4: p = 3/7, 4/7
    x = torch.zeros(5, 3)
    x[0, 0], x[1, 1] = 3, 4
    entropy = -(3 / 7 * math.log(3 / 7) + 4 / 7 * math.log(4 / 7))
    assert rank_me(x) == pytest.approx(math.exp(entropy), rel=1e-4)
    # centred columns of orthogonal signs with variances 1 and 4: p = 1/5, 4/5
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * torch.tensor([1.0, 2.0]) + 10
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert effective_rank(signs) == pytest.approx(math.exp(entropy), rel=1e-6)
    assert rank_me(torch.eye(8)) == pytest.approx(8, rel=1e-4)
    assert effective_rank(torch.ones(9, 4)) == 0


def test_spread():
    everywhere = torch.randn(20_000, 16)
    assert spread(everywhere) == pytest.approx(1, abs=0.01)
    assert spread(torch.ones(10, 4)) == pytest.approx(0, abs=1e-9)
    # unit vectors (1, 0) and (-1, 0): deviations 1 and 0
    assert spread(torch.tensor([[2.0, 0], [-3, 0]])) == pytest.approx(math.sqrt(2) / 2)


def test_entropies_of_assignments():
    assert assignment_entropies(torch.eye(4)) == pytest.approx((1, 0))  # each its own
    assert assignment_entropies(torch.eye(4)[[2, 2, 2]]) == pytest.approx((0, 0))  # one takes all
    assert assignment_entropies(torch.full((7, 4), 0.25)) == pytest.approx((1, 1))  # nobody is assigned


def test_trouble_is_told():
    healthy = torch.randn(100, 8)
    assert trouble(healthy) is None
    assert "2 of 100 features are not finite" in str(trouble(healthy.index_fill(0, torch.tensor([3, 5]), math.nan)))
    assert "collapsed" in str(trouble(torch.ones(100, 8) + 1e-4 * healthy))
    assert "onto a line" in str(trouble(healthy[:, :1] * torch.ones(8)))
    # features of a network that has learned nothing are poor, but no cause of alarm
    torch.manual_seed(1)
    vit = ViT(ViTConfig(image=(28, 28), patch=7, channels=1, dim=96, depth=4, heads=3, classes=0))
    with torch.no_grad():
        assert trouble(vit(torch.randn(64, 1, 28, 28))) is None
