"""The compiled kernels against PyTorch in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.native import (
    Matrix,
    Memory,
    Norm,
    StepCache,
    Weight,
    layer_norm,
    linear,
    linear_gelu,
    linear_swiglu,
    look_around,
    look_back,
    one_at_a_time,
    rms_norm,
    rms_norm_rows,
    rotate,
    rotate_rows,
    swiglu_rows,
)
from core.native.stacked import stacked_floats, stacked_integers
from core.nn import halves


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "dim"), [(1, 512), (3, 40)])
def test_layer_norm(rows: int, dim: int) -> None:
    norm = nn.LayerNorm(dim)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 3 + normal(rows, dim)
    y = np.empty((rows, dim), np.float32)
    layer_norm(x.numpy(), Norm.of(norm), y)
    torch.testing.assert_close(torch.from_numpy(y).double(), norm.double()(x.double()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [5, 200])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (2048, 96), (33, 7), (512, 513)])
def test_products_of_integers(inputs: int, outputs: int, rows: int) -> None:
    layer = nn.Linear(inputs, outputs).requires_grad_(False)
    weight = Weight.of(layer)
    x = normal(rows, inputs)
    x[3] *= 1000  # rows have scales of their own
    x[4] = 0
    y = torch.empty(rows, outputs)
    with one_at_a_time() as threads:
        linear(x.numpy(), weight, y.numpy(), threads)
    near = torch.from_numpy(weight.codes).double() * torch.from_numpy(weight.scales).double()[:, None]
    assert (near - layer.weight).abs().amax(1).le(layer.weight.abs().amax(1) / 253).all()
    expected = x.double() @ near.T + layer.bias
    size = expected.abs().amax(1, keepdim=True)
    assert ((y - expected).abs() / size).max() < 5e-4  # rows of 13 bits
    alone, bent = torch.empty(1, outputs), torch.empty(rows, outputs)
    with one_at_a_time() as threads:
        linear(x[1:2].numpy(), weight, alone.numpy(), threads)
        assert torch.equal(alone[0], y[1])  # of which four, or many, are multiplied together
        linear_gelu(x.numpy(), weight, bent.numpy(), threads)
    assert ((bent - F.gelu(y.double())).abs() <= 2e-6 + 1e-7 * y.abs()).all()  # of large numbers as float32 has it


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (512, 513), (33, 7), (40, 96), (9, 3)])
def test_products_of_floats(inputs: int, outputs: int) -> None:
    layer = nn.Linear(inputs, outputs).requires_grad_(False)
    weight = Matrix(layer.weight.numpy(), layer.bias.numpy())
    x = normal(6, inputs)
    y, alone = torch.empty(6, outputs), torch.empty(1, outputs)
    with one_at_a_time() as threads:
        linear(x.numpy(), weight, y.numpy(), threads)
        linear(x[2:3].numpy(), weight, alone.numpy(), threads)
    torch.testing.assert_close(y.double(), layer.double()(x.double()), atol=1e-5, rtol=1e-5)
    assert torch.equal(alone[0], y[2])


def test_gated_products() -> None:
    layer = nn.Linear(48, 2 * 30).requires_grad_(False)
    x, y = 4 * normal(5, 48), torch.empty(5, 30)
    with one_at_a_time() as threads:
        linear_swiglu(x.numpy(), Matrix(layer.weight.numpy(), layer.bias.numpy()), y.numpy(), threads)
    gate, value = layer.double()(x.double()).chunk(2, -1)
    torch.testing.assert_close(y.double(), F.silu(gate) * value, atol=1e-5, rtol=1e-5)


def test_stacked_layers_share_their_weights() -> None:
    pairs = [[nn.Linear(8, 6), nn.Linear(8, 4, bias=False)] for _ in range(3)]
    expected = [torch.cat([layer.weight.detach() for layer in pair]) for pair in pairs]
    codes = stacked_integers(pairs)
    floats = stacked_floats(pairs)
    assert torch.equal(torch.from_numpy(floats.weight), torch.stack(expected))
    assert not floats.bias[:, 6:].any()
    assert np.abs(codes.codes * codes.scales[..., None] - floats.weight).max() < np.abs(floats.weight).max() / 250
    floats.weight[1, 7, 2] = 5
    assert pairs[1][1].weight[1, 2] == 5


def test_norms_and_turns_of_heads() -> None:
    norm = nn.RMSNorm(20, eps=1e-5)
    nn.init.normal_(norm.weight)
    x = 2 * normal(3, 20)
    y = torch.empty(3, 20)
    rms_norm(x.numpy(), norm.weight.detach().numpy(), np.float32(1e-5), y.numpy())
    torch.testing.assert_close(y.double(), norm.double()(x.double()), atol=1e-5, rtol=1e-5)
    angle = normal(10, seed=3)
    expected = halves(x.double(), angle.double().cos(), angle.double().sin())
    rotate(x.numpy(), angle.cos().numpy(), angle.sin().numpy())
    torch.testing.assert_close(x.double(), expected, atol=1e-5, rtol=1e-5)


def test_norms_and_turns_of_many_rows() -> None:
    norm = nn.RMSNorm(20, eps=1e-5)
    nn.init.normal_(norm.weight)
    x, y = 2 * normal(7, 20), torch.empty(7, 20)
    heads, turned, angle = normal(7, 3, 20), torch.empty(7, 3, 20), normal(7, 10, seed=3)
    with one_at_a_time() as threads:
        rms_norm_rows(x.numpy(), norm.weight.detach().numpy(), np.float32(1e-5), y.numpy(), threads)
        rotate_rows(heads.numpy(), angle.cos().numpy(), angle.sin().numpy(), turned.numpy(), threads)
    torch.testing.assert_close(y.double(), norm.double()(x.double()), atol=1e-5, rtol=1e-5)
    expected = halves(heads.double(), angle.double().cos()[:, None], angle.double().sin()[:, None])
    torch.testing.assert_close(turned.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "gap"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_swiglu_of_many_rows(kind: torch.dtype, gap: float) -> None:
    both, scales, bias = 3 * normal(7, 40).to(kind), normal(40, seed=1), normal(40, seed=2)
    y = torch.empty(7, 20, dtype=kind)
    bits = [(t if kind is torch.float32 else t.view(torch.uint16)).numpy() for t in (both, y)]
    with one_at_a_time() as threads:
        swiglu_rows(bits[0], scales.numpy(), bias.numpy(), bits[1], threads)
    gate, value = (both.double() * scales + bias).chunk(2, -1)
    expected = F.silu(gate) * value
    torch.testing.assert_close(y.double(), expected, rtol=gap, atol=gap * float(expected.abs().max()) / 8)


@pytest.mark.parametrize(("window", "sinks"), [(0, 0), (7, 0), (7, 3), (100, 3)])
def test_looking_back_into_pages(window: int, sinks: int) -> None:
    heads, groups, dim, size, length = 4, 2, 16, 8, 3
    tables, starts = np.array([[5, 1, 3, 0], [2, 4, 6, 7]]), np.array([27, 2])
    q, out = normal(2, length, heads, dim, seed=1), torch.empty(2, length, heads, dim)
    keys, values = normal(8, groups, size, dim, seed=2), normal(8, groups, size, dim, seed=3)
    with one_at_a_time():
        look_back(q.numpy(), keys.numpy(), values.numpy(), tables, starts, window, sinks, out.numpy())
    for row in range(2):
        total = int(starts[row]) + length
        k, v = (x[tables[row]].transpose(0, 1).flatten(1, 2)[:, :total].double() for x in (keys, values))
        at, seen = torch.arange(total - length, total)[:, None], torch.arange(total)
        mask = (seen <= at) & ((at - seen < window) | (seen < sinks) if window else True)
        k, v = (x.repeat_interleave(heads // groups, 0) for x in (k, v))
        expected = F.scaled_dot_product_attention(q[row].transpose(0, 1).double(), k, v, mask, scale=1.0)
        torch.testing.assert_close(out[row].double(), expected.transpose(0, 1), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(("length", "start", "groups"), [(1, 0, 2), (1, 37, 4), (5, 3, 2)])
def test_looking_back(length: int, start: int, groups: int) -> None:
    heads, dim, room = 4, 16, 64
    q = normal(2, length, heads, dim, seed=1)
    keys, values = normal(2, groups, room, dim, seed=2), normal(2, groups, room, dim, seed=3)
    out = torch.empty_like(q)
    with one_at_a_time():
        tables, starts = np.arange(2)[:, None], np.full(2, start)
        look_back(q.numpy(), keys.numpy(), values.numpy(), tables, starts, 0, 0, out.numpy())
    size = start + length
    mask = torch.ones(length, size, dtype=torch.bool).tril(start)
    k, v = (x[:, :, :size].repeat_interleave(heads // groups, 1).double() for x in (keys, values))
    expected = F.scaled_dot_product_attention(q.transpose(1, 2).double(), k, v, mask, scale=1.0).transpose(1, 2)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=2e-5)


def test_looking_around() -> None:
    heads, dim, size = 3, 16, 50
    kv = normal(2, size, 2 * heads * dim, seed=4)
    memory = Memory.empty(2, heads, size, dim)
    for number in range(2):
        memory.write(number, kv[number])
    codes = [torch.from_numpy(array) for array in memory]
    k, v = (codes[n].double() * codes[n + 1].double()[..., None] for n in (0, 2))
    given = kv.unflatten(-1, (2, heads, dim)).permute(2, 0, 3, 1, 4)  # (keys and values, memory, h, S, d)
    assert (torch.stack([k, v]) - given).abs().max() < given.abs().max() / 250
    q = normal(3, 2, heads, dim, seed=5)
    places = torch.tensor([1, 0, 1])
    out = torch.empty_like(q)
    with one_at_a_time():
        look_around(q.numpy(), memory, places.numpy(), out.numpy())
    expected = F.scaled_dot_product_attention(q.transpose(1, 2).double(), k[places], v[places], scale=1.0)
    torch.testing.assert_close(out.double(), expected.transpose(1, 2), atol=2e-5, rtol=2e-5)


def test_a_cache_of_rows_that_come_and_go() -> None:
    cache = StepCache(layers=2, groups=1, head_dim=4)
    cache.places = torch.arange(2)
    written = normal(2, 2, 2, 1, 100, 4)  # (layers, keys and values, B, groups, tokens, d)
    for begin, end in [(0, 3), (3, 4), (4, 100)]:  # beyond the room that it begins with
        assert cache.make_room(2, end - begin) == begin
        cache.own[..., begin:end, :] = written[..., begin:end, :]
    assert torch.equal(cache.own[..., :100, :], written)
    cache.truncate(7)
    cache.reorder(torch.tensor([1, 1, 0]))
    assert cache.length == 7
    assert cache.places.tolist() == [1, 1, 0]
    assert torch.equal(cache.own[..., :7, :], written[:, :, [1, 1, 0], :, :7])
    with pytest.raises(ValueError, match="3 rows was given 2"):
        cache.make_room(2, 1)
