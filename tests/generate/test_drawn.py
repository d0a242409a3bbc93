"""Draws that the caller makes: distributed as they should be, and the same in any company."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from core.data.order import keys, uniforms
from core.generate import Drawn


def drawn(names: np.ndarray, temperature: float = 1.0) -> Drawn:
    return Drawn(lambda step: torch.from_numpy(uniforms(names, step + 1)[:, -1]), temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_they_follow_the_distribution(temperature: float) -> None:
    count = 20_000
    logits = torch.tensor([0.3, -1.0, 2.0, -torch.inf, 0.0, 1.5])
    choose = drawn(keys(0, 0, np.arange(count)), temperature)
    for _ in range(3):  # steps
        found = torch.bincount(choose(logits.expand(count, -1)), minlength=6)
        expected = count * (logits.double() / temperature).softmax(-1)
        assert found[3] == 0
        seen = expected > 0
        assert chisquare(found[seen].numpy(), expected[seen].numpy()).pvalue > 1e-4


def test_a_row_draws_the_same_in_any_company() -> None:
    names, logits = keys(7, 0, np.arange(50)), torch.randn(50, 30)
    together, alone = drawn(names), drawn(names[20:21])
    for _ in range(4):
        assert together(logits)[20] == alone(logits[20:21])[0]


def test_steps_draw_anew() -> None:
    choose, logits = drawn(keys(0, 0, np.arange(100))), torch.zeros(100, 1000)
    assert (choose(logits) == choose(logits)).float().mean() < 0.05
    with pytest.raises(ValueError, match="temperature"):
        drawn(keys(0, 0, np.arange(1)), 0.0)
