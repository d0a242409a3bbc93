"""The probe on cached features: scikit-learn's logistic regression."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from core.errors import InputError
from core.train.logistic import fit_logistic


def examples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes on channels of very different scales, one of which is constant."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (count,), generator=draws)
    centres = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    x = centres[labels] + 1.5 * torch.randn(count, 12, dtype=torch.float64, generator=draws)
    x = x * torch.logspace(-2, 3, 12, dtype=torch.float64) + 7
    x[:, 3] = 5.0
    return x, labels


def test_it_is_scikit_learns_logistic_regression():
    (x, y), (unseen, truth) = examples(400, 1), examples(300, 2)
    for penalty in (1e-3, 1e-1):
        ours = fit_logistic(x, y, 5, penalty, iterations=500)
        scaler = StandardScaler().fit(x)
        peer = LogisticRegression(C=1 / (penalty * len(x)), max_iter=5000, tol=1e-10).fit(scaler.transform(x), y)
        torch.testing.assert_close(ours.weight, torch.from_numpy(peer.coef_), rtol=1e-3, atol=1e-4)
        # of the bias only differences count
        bias = torch.from_numpy(peer.intercept_)
        torch.testing.assert_close(ours.bias - ours.bias.mean(), bias - bias.mean(), rtol=1e-3, atol=1e-4)
        expected = peer.score(scaler.transform(unseen), truth)
        assert (ours(unseen).argmax(1) == truth).double().mean() == pytest.approx(expected)


def test_in_float32_and_within_inference_mode():
    (x, y), (unseen, truth) = examples(400, 1), examples(300, 2)
    exact = fit_logistic(x, y, 5)
    before = torch.get_rng_state()
    with torch.inference_mode():
        ours = fit_logistic(x.float() * 1, y * 1, 5)
        right = (ours(unseen.float()).argmax(1) == truth).double().mean()
    assert torch.equal(before, torch.get_rng_state())
    assert abs(right - (exact(unseen).argmax(1) == truth).double().mean()) < 0.01


def test_what_cannot_be():
    x, y = examples(10, 1)
    with pytest.raises(InputError, match="labelled features"):
        fit_logistic(x[:0], y[:0], 5)
    with pytest.raises(InputError, match="penalty -1"):
        fit_logistic(x, y, 5, penalty=-1.0)
