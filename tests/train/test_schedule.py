"""The learning rate: its closed form, and PyTorch's own schedulers."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

from core.errors import InputError
from core.train.schedule import Schedule


def test_equals_pytorchs_schedulers():
    total, rise = 200, 20
    weight = torch.nn.Parameter(torch.zeros(1))
    ours, theirs = (torch.optim.SGD([weight], lr=0.5) for _ in range(2))
    mine = LambdaLR(ours, lambda step: Schedule(warmup=0.1, floor=0.02).factor(step, total))
    warm = LinearLR(theirs, start_factor=1 / rise, total_iters=rise - 1)
    cosine = CosineAnnealingLR(theirs, T_max=total - rise, eta_min=0.02 * 0.5)
    other = SequentialLR(theirs, [warm, cosine], milestones=[rise])
    for _ in range(total):
        assert math.isclose(mine.get_last_lr()[0], other.get_last_lr()[0], rel_tol=1e-9)
        ours.step(), theirs.step(), mine.step(), other.step()


def test_ends():
    schedule = Schedule(warmup=0.0, floor=0.1)
    assert schedule.factor(0, 10) == 1
    assert math.isclose(schedule.factor(5, 10), 0.55)
    assert math.isclose(schedule.factor(10, 10), 0.1)
    assert math.isclose(schedule.factor(1000, 10), 0.1)
    assert Schedule(warmup=0.5).factor(3, 8) == 1


@pytest.mark.parametrize("settings", [{"warmup": 1.0}, {"warmup": -0.1}, {"floor": 1.1}])
def test_nonsense_is_refused(settings: dict[str, float]):
    with pytest.raises(InputError):
        Schedule(**settings)
