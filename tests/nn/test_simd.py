"""Wide products of bfloat16 and of 8-bit integers against float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core import simd
from core.nn.tiled import TiledConvolution, TiledLinear

pytestmark = pytest.mark.skipif(not simd.available(), reason="not for this processor")


def close(ours, exact, tolerance):
    assert ours.shape == exact.shape
    assert (ours.double() - exact).norm() <= tolerance * exact.norm()


def exact_of_codes(x, weight, bias):
    """The layer in float64, with inputs and weights rounded to 8 bits of their row."""
    steps, scales = (t.abs().amax(1, keepdim=True) / 127 for t in (x, weight))
    codes, weights = (x / steps).round().double(), (weight / scales).round().double()
    return F.linear(codes * steps, weights * scales, bias.double())


@torch.no_grad()
@pytest.mark.parametrize(("count", "width", "outputs"), [(1, 4, 64), (7, 33, 70), (100, 128, 200), (301, 512, 64)])
def test_integers_are_multiplied_exactly(count, width, outputs):
    torch.manual_seed(0)
    linear = nn.Linear(width, outputs)
    x, other = torch.randn(count, width), torch.randn(count, outputs)
    layer, exact = TiledLinear(linear), exact_of_codes(x, linear.weight, linear.bias)
    # a number between two codes may go to either side
    close(layer(x), exact, 1e-3)
    close(layer.added(x, other), exact + other, 1e-3)
    for kind in ("none", "tanh"):
        layer.gelu = kind
        close(layer(x), F.gelu(exact, approximate=kind), 1e-3)


@torch.no_grad()
def test_a_row_is_the_same_beside_any_others_and_on_any_threads():
    torch.manual_seed(0)
    layer, x = TiledLinear(nn.Linear(512, 300)), torch.randn(40, 512)
    alone, threads = layer(x), torch.get_num_threads()
    for rows in (1, 8, 40):
        assert torch.equal(layer(torch.cat([x[:rows], 1000 * x]))[:rows], alone[:rows])
    try:
        torch.set_num_threads(3)
        assert torch.equal(layer(x), alone)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def test_zeros_extremes_and_what_is_no_number():
    layer = TiledLinear(nn.Linear(48, 40))
    assert torch.equal(layer(torch.zeros(2, 48)), layer.bias.expand(2, -1))
    linear = nn.Linear(48, 48, bias=False)
    linear.weight.copy_(torch.eye(48))
    for size in (-1e30, -1e-3, 1e-6, 1.0, 1e20):
        x = torch.full((1, 48), size)
        torch.testing.assert_close(TiledLinear(linear)(x), x, rtol=1e-5, atol=0)
    x = torch.randn(3, 48)
    x[1, 5] = torch.nan
    assert layer(x).isnan().all(1).tolist() == [False, True, False]


@torch.no_grad()
@pytest.mark.parametrize(("size", "stride", "padding", "length"), [(3, 1, 1, 50), (3, 2, 1, 50), (5, 3, 0, 41)])
def test_a_convolution_is_a_layer_of_overlapping_rows(size, stride, padding, length):
    torch.manual_seed(0)
    conv, x = nn.Conv1d(20, 24, size, stride, padding), torch.randn(2, 20, length)
    exact = F.gelu(copy.deepcopy(conv).double()(x.double())).transpose(1, 2)
    close(TiledConvolution(conv, gelu="none")(x.transpose(1, 2)), exact, 0.015)


@pytest.mark.parametrize("shape", [(2, 3, 7, 100, 40, 72), (1, 2, 197, 197, 64, 64), (1, 2, 5, 1, 32, 130)])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_attention_equals_float64(shape, size):
    from core.simd.attention import attend

    torch.manual_seed(0)
    rows, heads, length, count, dim, width = shape
    q, k, v = (
        torch.randn(rows, tokens, heads, d).transpose(1, 2).bfloat16()
        for tokens, d in ((length, dim), (count, dim), (count, width))
    )
    q = q * size
    # the scale is a power of two and in the queries: nothing else is rounded before the products
    exact = (q.double() @ k.double().transpose(2, 3) / 8).softmax(-1) @ v.double()
    close(attend(q, k, v, 1 / 8), exact, 0.01 * size**0.5)
    q[0, 0, 3] = torch.nan
    found = attend(q, k, v, 1 / 8)
    assert found[0, 0, 3].isnan().all()
    assert not found[0, 0, [0, 1, 2, 4]].isnan().any()
