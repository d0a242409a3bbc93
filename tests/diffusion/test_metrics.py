"""FID, KID, precision and recall against closed forms, direct sums and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from core.errors import InputError
from diffusion.metrics import frechet_distance, kernel_distance, precision_recall


def features(rows: int, width: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=random, dtype=torch.float64)
    return torch.randn(rows, width, generator=random, dtype=torch.float64) @ mix + torch.rand(width, generator=random)


@pytest.mark.parametrize("sizes", [(200, 150), (5, 40)], ids=["many", "fewer than channels"])
def test_frechet_distance_is_that_of_the_papers_formula(sizes: tuple[int, int]) -> None:
    x, y = features(sizes[0], 12, 0), features(sizes[1], 12, 1)
    c, d = (np.cov(z.numpy(), rowvar=False) for z in (x, y))
    # the eigenvalues of a product of covariances are real, so the trace of its root is a sum of roots
    root = np.sqrt(np.clip(linalg.eigvals(c @ d).real, 0, None)).sum()
    expected = float(((x.mean(0) - y.mean(0)) ** 2).sum()) + np.trace(c) + np.trace(d) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_known_gaussians() -> None:
    # rows whose mean and covariance are exactly these: a simplex of points
    plus = math.sqrt(3 / 2) * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    scale = torch.tensor([2.0, 3.0], dtype=torch.float64)
    assert frechet_distance(plus, plus * scale + 1) == pytest.approx(2 + (2 - 1) ** 2 + (3 - 1) ** 2)


def test_kernel_distance_is_the_direct_sum_and_torchmetrics() -> None:
    x, y = features(30, 6, 2), features(30, 6, 3)

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / 6 + 1) ** 3

    among = [sum(k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j) / (30 * 29) for z in (x, y)]
    expected = sum(among) - 2 * sum(k(a, b) for a in x for b in y) / 900
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert kernel_distance(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-9)


def test_precision_and_recall() -> None:
    x = torch.arange(10.0)[:, None]
    assert precision_recall(x, x) == (1, 1)
    # balls around 0 .. 9 have radius 1: 9 and 10 lie within, 11.5 and 30 don't. Balls around what was made have radius
    # 1, 1, 1.5 and 18.5: they hold 8 and 9 (of 9), 9 (of 10), none (of 11.5)
    made = torch.tensor([[9.0], [10.0], [11.5], [30.0]])
    assert precision_recall(x, made, neighbours=1) == pytest.approx((0.5, 0.2))


def test_features_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="expected \\(N, D\\)"):
        frechet_distance(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(InputError, match="at least 4"):
        precision_recall(torch.ones(3, 2), torch.ones(9, 2))
