"""The average of the weights: its closed form, swapping, sharded modules."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from core.train.ema import EMA


def test_equals_the_closed_form():
    module, steps = nn.Linear(3, 2).double(), 50
    ema = EMA(module, 0.9)
    history = [module.weight.detach().clone()]
    for step in range(steps):
        with torch.no_grad():
            module.weight.add_(torch.randn_like(module.weight))
        history.append(module.weight.detach().clone())
        ema.update(module, step)
    decays = [min(0.9, (1 + t) / (10 + t)) for t in range(steps)]
    shares = [1.0] + [1 - decay for decay in decays]
    for t, decay in enumerate(decays):
        shares[: t + 1] = [share * decay for share in shares[: t + 1]]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * weight for share, weight in zip(shares, history, strict=True))
    torch.testing.assert_close(ema.weight.double(), expected, rtol=1e-5, atol=1e-5)


def test_swapping_leaves_both_as_they_were():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).bfloat16()
    module[1].requires_grad_(False)
    ema = EMA(module, 0.5)
    with torch.no_grad():
        module[0].weight.add_(1)
    ema.update(module, 20)
    trained = {name: weight.clone() for name, weight in module.state_dict().items()}
    averages = {name: weight.clone() for name, weight in ema.state_dict().items()}
    # of frozen weights there is no average, and averages keep more digits than the weights
    assert set(averages) == {"0.weight", "0.bias"}
    assert ema.get_parameter("0.weight").dtype == torch.float32
    ema.swap_in(module)
    ema.swap_in(module)
    assert torch.equal(module[0].weight, averages["0.weight"].bfloat16())
    assert torch.equal(ema.held(module)["0.weight"], trained["0.weight"])
    ema.swap_out(module)
    ema.swap_out(module)
    assert ema.held(module) == {}
    assert all(torch.equal(weight, trained[name]) for name, weight in module.state_dict().items())
    assert all(torch.equal(weight, averages[name]) for name, weight in ema.state_dict().items())


def test_is_trained_by_nobody_and_stored():
    module = nn.Linear(2, 2)
    holder = nn.ModuleDict({"model": module, "ema": EMA(module, 0.9)})
    assert [name for name, p in holder.named_parameters() if p.requires_grad] == ["model.weight", "model.bias"]
    assert {"ema.weight", "ema.bias"} < set(holder.state_dict())


def test_keeps_its_precision():
    module = nn.Linear(2, 2)
    holder = nn.ModuleDict({"model": module, "ema": EMA(module, 0.9)}).to(torch.bfloat16)
    assert holder["model"].weight.dtype == torch.bfloat16
    assert holder["ema"].weight.dtype == torch.float32
    assert holder.to("meta")["ema"].weight.device.type == "meta"


def test_of_a_module_sharded_by_fsdp2():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        module = nn.Linear(4, 4)
        start, bias = module.weight.detach().clone(), module.bias.detach().clone()
        fully_shard(module, mesh=dist.init_device_mesh("cpu", (1,)))
        ema = EMA(module, 0.5)
        assert isinstance(ema.weight, DTensor)
        with torch.no_grad():
            module.weight.add_(1)
        ema.update(module, 100)
        expected = start + 0.5
        torch.testing.assert_close(ema.weight.full_tensor(), expected)
        ema.swap_in(module)
        x = torch.randn(2, 4)
        torch.testing.assert_close(module(x), x @ expected.T + bias)
        ema.swap_out(module)
        module(x).sum().backward()
        torch.testing.assert_close(module.weight.full_tensor(), start + 1)
    finally:
        dist.destroy_process_group()
