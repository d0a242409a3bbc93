"""AdamW with float32 copies: PyTorch's own AdamW on the copies, and what is restored is exact."""

import copy
import io

import torch

from core.train.master import MasterAdamW
from core.train.optim import Optim

SETTINGS = {"lr": 1e-3, "weight_decay": 0.1, "fused": True}


def weights():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(7, 5).bfloat16()), torch.nn.Parameter(torch.randn(5).bfloat16())]


def gradients(step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(7, 5, generator=generator).bfloat16(), torch.randn(5, generator=generator).bfloat16()]


def run(parameters, optimizer, steps):
    for step in steps:
        for p, g in zip(parameters, gradients(step), strict=True):
            p.grad = g.to(p.dtype)
        optimizer.step()


def test_equals_adamw_on_float32_copies():
    ours = weights()
    theirs = [torch.nn.Parameter(p.detach().float()) for p in ours]
    optimizer = MasterAdamW(ours, **SETTINGS)
    run(ours, optimizer, range(20))
    run(theirs, torch.optim.AdamW(theirs, **SETTINGS), range(20))
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(optimizer.state[p]["master"], q)
        assert torch.equal(p, q.bfloat16())


def test_small_updates_add_up():
    """Forty steps of 1e-4 at a weight of one: plain bfloat16 stays where it is."""
    moved = {}
    for kind in (MasterAdamW, torch.optim.AdamW):
        p = torch.nn.Parameter(torch.ones(4).bfloat16())
        optimizer = kind([p], lr=1e-4, weight_decay=0.0)
        for _ in range(40):
            p.grad = torch.ones_like(p)
            optimizer.step()
        moved[kind] = 1 - p[0].item()
    assert moved[torch.optim.AdamW] == 0
    assert abs(moved[MasterAdamW] - 4e-3) < 2e-3


def test_resumes_exactly():
    through = weights()
    run(through, MasterAdamW(through, **SETTINGS), range(10))
    first = weights()
    optimizer = MasterAdamW(first, **SETTINGS)
    run(first, optimizer, range(4))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    resumed = MasterAdamW(second, **SETTINGS)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    run(second, resumed, range(4, 10))
    for a, b in zip(through, second, strict=True):
        assert torch.equal(a, b)


def test_chosen_by_the_type_of_the_weights():
    model = torch.nn.Linear(3, 3)
    assert type(Optim().build(model)) is torch.optim.AdamW
    assert type(Optim().build(copy.deepcopy(model).bfloat16())) is MasterAdamW
