"""Loaders: the same batches with and without workers, from any position, and no draw from the global generators."""

import random

import numpy as np
import pytest
import torch

from core.data.loader import Loader, TrainLoader
from core.data.order import Order
from core.errors import InputError


class _Echo:
    """Batches that tell their keys."""

    def __getitems__(self, keys):
        return list(keys)


@pytest.mark.parametrize("workers", [0, 2])
def test_position_follows_what_was_handed_out_not_what_was_read_ahead(workers: int):
    order = Order(50, 4, 9)
    whole = list(order.batches(3))
    loader = TrainLoader(_Echo(), order, workers)
    loader.set_epoch(3)
    iterator = iter(loader)
    assert [next(iterator) for _ in range(5)] == whole[:5]
    state = loader.state_dict()
    assert state["epoch"] == 3
    assert state["consumed"] == 20

    resumed = TrainLoader(_Echo(), order, 0)
    late = iter(resumed)  # trainers make the iterator first and restore the position then
    resumed.load_state_dict(state)
    resumed.set_epoch(3)
    assert list(late) == whole[5:]
    # the next epoch begins at its beginning, also in the same workers
    loader.set_epoch(4)
    assert list(loader) == list(order.batches(4))


def test_evaluation_begins_at_the_beginning_and_passes_over_empty_shares():
    loader = Loader(_Echo(), Order(9, 4, shuffle=False, rank=1, world=2))
    # the last batch has one sample, which is rank 0's
    assert list(loader) == list(loader) == [[(0, 2), (0, 3)], [(0, 6), (0, 7)]]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_the_data_comes_through_as_it_is(workers: int):
    class Broken:
        def __getitems__(self, keys):
            raise InputError("a.png: damaged")

    for loader in (Loader(Broken(), Order(8, 4), workers), TrainLoader(Broken(), Order(8, 4), workers)):
        with pytest.raises(InputError, match=r"^a\.png: damaged$"):
            next(iter(loader))


def test_nothing_is_drawn_from_the_global_generators():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    list(TrainLoader(_Echo(), Order(50, 4)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


@pytest.mark.parametrize(("name", "order"), [("size", (51, 4, 9)), ("batch", (50, 5, 9)), ("seed", (50, 4, 8))])
def test_a_position_in_other_data_is_refused(name: str, order: tuple[int, int, int]):
    state = TrainLoader(_Echo(), Order(50, 4, 9)).state_dict()
    with pytest.raises(InputError, match=f"data {name} "):
        TrainLoader(_Echo(), Order(*order)).load_state_dict(state)
