"""Block masks: their ratios, their share, and that they follow from numbers alone."""

import numpy as np
import pytest
import torch

from core.errors import InputError
from vision.masking import BlockMasks


def test_half_of_the_crops_with_ratios_spread_over_the_range() -> None:
    masks = BlockMasks()(np.arange(64), 64, (14, 14), 0, 0, 0)
    assert masks.shape == (64, 196) and masks.dtype == torch.bool  # noqa: PT018
    counts = masks.sum(1).sort().values
    assert (counts == 0).sum() == 32
    ratios = counts[32:] / 196
    assert ratios.max() <= 0.5
    # one of each interval, less the few patches for which no block is small enough
    expected = torch.linspace(0.1, 0.5, 33)
    assert (ratios < expected[1:] + 1e-6).all()
    assert (ratios > expected[:-1] - 6 / 196).all()


def test_blocks_are_rectangles() -> None:
    config = BlockMasks(ratio=(0.2, 0.2), share=1.0)
    masks = config(np.arange(20), 20, (14, 14), 1, 0, 0).unflatten(1, (14, 14))
    for mask in masks:
        inside = mask[1:, 1:] & mask[:-1, :-1] & mask[1:, :-1] & mask[:-1, 1:]
        covered = torch.zeros_like(mask)
        for down in (0, 1):
            for right in (0, 1):
                covered[down : 13 + down, right : 13 + right] |= inside
        # blocks of at least 2 x 2 cover nearly all; the rest are narrow ones
        assert covered.sum() >= 0.5 * mask.sum()


def test_shares_of_processes_are_those_of_one() -> None:
    whole = BlockMasks()(np.arange(12), 12, (7, 5), 3, 1, 4)
    parts = [BlockMasks()(np.arange(12)[rows], 12, (7, 5), 3, 1, 4) for rows in (slice(0, 5), slice(5, 12))]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(BlockMasks()(np.arange(12), 12, (7, 5), 3, 1, 5), whole)
    assert not torch.equal(BlockMasks()(np.arange(12), 12, (7, 5), 4, 1, 4), whole)


def test_small_grids() -> None:
    assert not BlockMasks()(np.arange(4), 4, (1, 1), 0, 0, 0).any()
    assert BlockMasks(ratio=(1.0, 1.0), share=1.0)(np.arange(4), 4, (4, 4), 0, 0, 0).float().mean() > 0.7


@pytest.mark.parametrize("wrong", [{"ratio": (0.5, 0.1)}, {"share": 2.0}, {"smallest": 0}, {"aspect": 0.0}])
def test_impossible_ones_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        BlockMasks(**wrong)
