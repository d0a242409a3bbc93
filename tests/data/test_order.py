"""Sample order: permutations that depend on (seed, epoch) only, cut alike for any number of processes and any start."""

from itertools import chain

import numpy as np
import pytest

from core.data.order import Order, keys, permutation, splitmix64, uniforms
from core.errors import InputError


def _sequence(seed: int, count: int) -> list[int]:
    """SplitMix64 as its authors define it, in Python's integers."""
    mask, state, result = (1 << 64) - 1, seed, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        result.append(z ^ (z >> 31))
    return result


def test_splitmix64_gives_the_published_numbers():
    # the first outputs for seed 1234567, as given with the reference implementation
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = np.uint64(1234567) + np.arange(4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert splitmix64(states).tolist() == published == _sequence(1234567, 4)


def test_uniforms_are_the_generators_next_numbers():
    draws = uniforms(np.array([42], np.uint64), 5)
    assert draws[0].tolist() == [(z >> 11) / 2**53 for z in _sequence(42, 5)]


def test_keys_differ_between_seeds_epochs_and_samples():
    all_keys = np.concatenate([keys(seed, epoch, np.arange(1000)) for seed in (0, 1, 2**63) for epoch in range(5)])
    assert len(np.unique(all_keys)) == len(all_keys)
    # a key doesn't depend on its company
    assert keys(3, 4, np.array([77]))[0] == keys(3, 4, np.arange(100))[77]


def test_permutation_is_one_and_uniform():
    assert sorted(permutation(1001, 5, 7).tolist()) == list(range(1001))
    # where sample i lands over many epochs: chi-square over 10 x 10 cells with 81 degrees of freedom, 99.9 % below 125
    counts = np.zeros((10, 10))
    for epoch in range(2000):
        counts[np.arange(10), permutation(10, 0, epoch)] += 1
    assert ((counts - 200) ** 2 / 200).sum() < 125


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_together_see_what_one_would(shuffle: bool, world: int):
    size = 103
    alone = list(Order(size, 12, 3, shuffle).batches(2))
    shares = [list(Order(size, 12, 3, shuffle, rank, world).batches(2)) for rank in range(world)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == alone
    assert len(alone) == len(Order(size, 12, 3, shuffle))
    indices = [index for batch in alone for _, index in batch]
    assert len(set(indices)) == len(indices) == (96 if shuffle else size)


def test_any_start_goes_on_exactly():
    order = Order(100, 8, 1)
    whole = list(order.batches(4))
    assert order.samples == 96
    for done in range(len(order) + 1):
        assert list(order.batches(4, 8 * done)) == whole[done:]


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(InputError, match="3 processes can't share a global batch of 8"):
        Order(100, 8, world=3)
    with pytest.raises(InputError, match="7 samples are fewer than one batch of 8"):
        Order(7, 8)
    assert len(Order(7, 8, shuffle=False)) == 1
