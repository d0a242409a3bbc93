"""Weights of all layers of a kind in one array: one call computes all layers, and gets a few arrays, not hundreds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba.extending import overload
from torch import Tensor, nn

from .product import Matrix, Weight

__all__ = ["layer_of", "part_of", "stacked_floats", "stacked_integers"]


def stacked_integers(layers: Sequence[Sequence[nn.Linear]]) -> Weight:
    """The weights of layers, of each of which several of one input lie one below another: (layers, out, in)."""
    parts = [Weight.of(*linears) for linears in layers]
    return Weight(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))


def stacked_floats(layers: Sequence[Sequence[nn.Linear]]) -> Matrix:
    """As :func:`stacked_integers`, in float32. The layers have their weights in the result: nothing is double."""
    outputs, inputs = sum(linear.out_features for linear in layers[0]), layers[0][0].in_features
    weight, bias = torch.empty(len(layers), outputs, inputs), torch.zeros(len(layers), outputs)
    for number, linears in enumerate(layers):
        begin = 0
        for linear in linears:
            mine = weight[number, begin : begin + linear.out_features]
            mine.copy_(linear.weight.detach())
            linear.weight = nn.Parameter(mine, requires_grad=False)
            if linear.bias is not None:
                bias[number, begin : begin + linear.out_features] = linear.bias.detach()
            begin += linear.out_features
    return Matrix(weight.numpy(), bias.numpy())


def layer_of(weight: Any, number: int) -> Any:
    """The weight of one layer, in compiled functions."""


@overload(layer_of)
def _layer_of(weight, number):  # type: ignore[no-untyped-def]
    if weight.instance_class is Matrix:
        return lambda weight, number: Matrix(weight.weight[number], weight.bias[number])
    return lambda weight, number: Weight(weight.codes[number], weight.scales[number], weight.bias[number])


def part_of(weight: Weight, number: int, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """The codes and the scales of some outputs of one layer, as tensors."""
    return torch.from_numpy(weight.codes[number, begin:end]), torch.from_numpy(weight.scales[number, begin:end])
