"""Batches by length: within the budget, everything once, the same after a stop and on any number of processes."""

import numpy as np
import pytest

from core.data.lengths import LengthOrder
from core.errors import InputError

LENGTHS = np.random.default_rng(0).gamma(2.0, 3.0, 500) + 0.5


def test_batches_are_within_the_budget_and_of_like_length() -> None:
    order = LengthOrder(LENGTHS, 60.0)
    batches = [[index for _, index in batch] for batch in order.batches(0)]
    assert len(batches) == len(order)
    assert max(len(batch) * LENGTHS[batch].max() for batch in batches) <= 60
    used = sorted(index for batch in batches for index in batch)
    assert len(set(used)) == len(used) > 420
    padding = 1 - sum(LENGTHS[used]) / sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    mixed = np.random.default_rng(1).permutation(500)[:496].reshape(-1, 8)
    assert padding < 0.25 < 1 - LENGTHS[mixed].sum() / (8 * LENGTHS[mixed].max(1)).sum()


def test_epochs_differ_and_have_the_same_number_of_batches() -> None:
    order = LengthOrder(LENGTHS, 60.0)
    first, second = list(order.batches(0)), list(order.batches(1))
    assert len(first) == len(second)
    assert [sorted(i for _, i in batch) for batch in first] != [sorted(i for _, i in batch) for batch in second]


def test_goes_on_anywhere() -> None:
    order = LengthOrder(LENGTHS, 60.0, seed=3)
    whole = list(order.batches(2))
    for done in (0, 1, 7, len(whole)):
        assert list(order.batches(2, done * order.step)) == whole[done:]


def test_two_processes_see_what_one_does() -> None:
    shares = [list(LengthOrder(LENGTHS, 60.0, rank=rank, world=2).batches(0)) for rank in range(2)]
    whole = list(LengthOrder(LENGTHS, 60.0, multiple=2).batches(0))
    assert [one + other for one, other in zip(*shares, strict=True)] == whole
    assert all(len(one) == len(other) for one, other in zip(*shares, strict=True))
    with pytest.raises(InputError, match="3 processes can't share"):
        LengthOrder(LENGTHS, 60.0, multiple=2, world=3)


@pytest.mark.parametrize(
    ("lengths", "budget", "message"),
    [([1.0, 70.0], 60.0, "more than its budget"), ([], 60.0, "need the lengths"), ([0.0], 60.0, "above 0")],
)
def test_wrong_lengths(lengths: list[float], budget: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LengthOrder(lengths, budget)
