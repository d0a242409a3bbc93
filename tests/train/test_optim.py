"""Optimizer groups against timm's, and AdamW against its definition."""

import math

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from core.nn import Block, Residual, Stack
from core.train.optim import Optim, param_groups
from vision.vit import ViT, ViTConfig

DEPTH = 3


def _ours() -> ViT:
    return ViT(ViTConfig(image=(32, 32), patch=8, dim=16, depth=DEPTH, heads=2, classes=5))


def _theirs() -> nn.Module:
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": DEPTH, "num_heads": 2, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **size)


def _counts(groups: list[dict]) -> dict[tuple[float, float], int]:
    """How many numbers are trained with which (learning rate, weight decay)."""
    counts: dict[tuple[float, float], int] = {}
    for group in groups:
        kind = (round(group["lr"] if "lr" in group else group["lr_scale"], 9), group["weight_decay"])
        counts[kind] = counts.get(kind, 0) + sum(parameter.numel() for parameter in group["params"])
    return counts


def test_groups_equal_timms():
    model = _theirs()
    theirs = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    for group in theirs:
        group["lr"] = 1.0
    assert _counts(param_groups(_ours(), 1.0, 0.05)) == _counts(theirs)


def test_layer_wise_decay_equals_timms():
    model = _theirs()
    theirs = _counts(param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.7))
    # the final norm is at the top as in BEiT's and MAE's own code (get_num_layer); timm puts it with the last block
    norm = sum(parameter.numel() for parameter in model.norm.parameters())
    theirs[0.7, 0.0] -= norm
    theirs[1.0, 0.0] += norm
    assert _counts(param_groups(_ours(), 1.0, 0.05, layer_decay=0.7)) == theirs


def test_every_trained_parameter_once_and_no_other():
    model = _ours()
    model.blocks[0].requires_grad_(False)
    groups = param_groups(nn.ModuleDict({"model": model}), 1.0, 0.05, 0.7)
    grouped = [parameter for group in groups for parameter in group["params"]]
    expected = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in expected}
    assert len(grouped) == len(expected)
    assert model.head.weight in set(groups[-2]["params"] + groups[-1]["params"])


def test_layers_go_on_through_several_stacks():
    def stack(blocks: int) -> Stack:
        return Stack(Block(mlp=Residual(nn.Identity(), nn.Linear(4, 4))) for _ in range(blocks))

    model = nn.ModuleDict(
        {"patch": nn.Linear(4, 4), "one": stack(2), "merge": nn.Linear(4, 4), "two": stack(1), "head": nn.Linear(4, 2)}
    )
    rate = {id(p): group["lr"] for group in param_groups(model, 1.0, 0.0, 0.5) for p in group["params"]}
    rates = {name: rate[id(parameter)] for name, parameter in model.named_parameters() if name.endswith("weight")}
    assert rates == {
        "patch.weight": 0.0625,
        "one.0.mlp.fn.weight": 0.125,
        "one.1.mlp.fn.weight": 0.25,
        "merge.weight": 0.5,
        "two.0.mlp.fn.weight": 0.5,
        "head.weight": 1.0,
    }


def test_first_step_of_adamw():
    layer = nn.Linear(1, 1).double()
    start = {name: parameter.item() for name, parameter in layer.named_parameters()}
    optimizer = Optim(lr=0.1, weight_decay=0.5, eps=0.0).build(nn.ModuleDict({"head": layer}))
    layer(torch.ones(1, 1, dtype=torch.float64)).sum().backward()
    optimizer.step()
    # the first step moves each number by lr against the sign of its gradient; a matrix decays by lr * decay before
    moved = nn.Parameter(torch.tensor(start["weight"] * (1 - 0.1 * 0.5) - 0.1)).item()
    assert math.isclose(layer.weight.item(), moved, abs_tol=1e-6)
    assert layer.bias.item() == pytest.approx(start["bias"] - 0.1)
