"""Every kernel that runs here means the same as the eager reference, forward and backward, for every mask."""

import pytest
import torch

from core.nn import (
    Attention,
    Causal,
    Dense,
    Full,
    Prefix,
    Sight,
    Tokens,
    Window,
    attention,
    kernels,
    packed_tokens,
    padded_tokens,
)
from core.nn.blocked import blocked, in_blocks

ROWS, HEADS, LENGTH, DIM = 2, 4, 9, 16
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def sights():
    arbitrary = torch.rand(ROWS, HEADS, LENGTH, LENGTH, generator=torch.Generator().manual_seed(3)) > 0.4
    nobody = arbitrary.clone()
    nobody[:, :, 4] = False
    right = padded_tokens(torch.tensor([5, 9]), LENGTH)
    left = padded_tokens(torch.tensor([5, 9]), LENGTH, left=True)
    packed = packed_tokens([2, 2, 4, 1])._replace(lengths=None)
    rules = {
        "full": Full(),
        "causal": Causal(),
        "window": Window(3),
        "causal window with sinks": Causal() & Window(2, sinks=1),
        "prefix": Causal() | Prefix(torch.tensor([2, 5])),
        "arbitrary": Dense(arbitrary),
        "arbitrary and causal": Causal() & Dense(arbitrary),
        "a query that sees nothing": Dense(nobody),
    }
    for name, rule in rules.items():
        yield name, Sight(rule)
        yield f"{name}, right padding", Sight(rule, right, right)
        yield f"{name}, left padding", Sight(rule, left, left)
        yield f"{name}, segments", Sight(rule, packed, packed)


SIGHTS = dict(sights())


def outcome(kernel, sight, q, k, v, bias=None, scale=None):
    """The result and the gradients of everything that has one."""
    y = kernel(q, k, v, sight, bias, scale)
    inputs = [t for t in (q, k, v, bias) if t is not None and t.requires_grad]
    push = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return y, *torch.autograd.grad((y * push).sum(), inputs)


def assert_same(ours, reference, tolerance=1e-12):
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("name", SIGHTS)
def test_eager_equals_the_formula_in_loops(name, groups):
    """softmax(q k^T / sqrt(d)) v, query by query over the keys that it may see."""
    sight = SIGHTS[name]
    q, k, v = randn(ROWS, HEADS, LENGTH, DIM), randn(ROWS, groups, LENGTH, DIM), randn(ROWS, groups, LENGTH, DIM)
    mask = sight.dense(q, k)
    mask = torch.ones(1, dtype=torch.bool) if mask is None else mask
    mask = mask.expand(ROWS, HEADS, LENGTH, LENGTH)
    y = kernels.eager(q, k, v, sight)
    for b in range(ROWS):
        for h in range(HEADS):
            key, value = k[b, h * groups // HEADS], v[b, h * groups // HEADS]
            for i in range(LENGTH):
                seen = mask[b, h, i]
                weight = torch.softmax(key[seen] @ q[b, h, i] / DIM**0.5, 0)
                torch.testing.assert_close(y[b, h, i], weight @ value[seen], atol=1e-12, rtol=0)


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", SIGHTS)
def test_sdpa_equals_eager(name, biased, groups):
    q, k, v = randn(ROWS, HEADS, LENGTH, DIM), randn(ROWS, groups, LENGTH, DIM), randn(ROWS, groups, LENGTH, DIM)
    bias = randn(1, HEADS, LENGTH, LENGTH) if biased else None
    assert_same(
        outcome(kernels.attend, SIGHTS[name], q, k, v, bias), outcome(kernels.eager, SIGHTS[name], q, k, v, bias)
    )


# each rule and each kind of tokens: the compiler traces FlexAttention anew at every call
FLEXED = {
    "full, segments",
    "causal",
    "window, left padding",
    "causal window with sinks, right padding",
    "prefix",
    "arbitrary, segments",
    "arbitrary and causal, left padding",
    "a query that sees nothing, right padding",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FLEXED else pytest.mark.thorough) for name in SIGHTS]
)
def test_flex_equals_eager(name):
    """Forward only: FlexAttention has no backward on CPU."""
    q, k, v = (t.detach().float() for t in (randn(ROWS, HEADS, LENGTH, DIM) for _ in range(3)))
    bias = torch.randn(1, HEADS, LENGTH, LENGTH)
    for given in (None, bias):
        y, reference = (kernel(q, k, v, SIGHTS[name], given, None) for kernel in (kernels.flex, kernels.eager))
        torch.testing.assert_close(y, reference, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rule", [Full(), Causal(), Causal() & Window(2), Window(2, sinks=1)], ids=str)
@pytest.mark.parametrize("lengths", [[9], [3, 3, 3], [2, 2, 4, 1], [1, 5, 3]], ids=str)
@pytest.mark.parametrize("groups", [4, 2])
def test_split_equals_eager(rule, lengths, groups):
    tokens = packed_tokens(lengths)
    sight = Sight(rule, tokens, tokens)
    q, k, v = randn(1, HEADS, LENGTH, DIM), randn(1, groups, LENGTH, DIM), randn(1, groups, LENGTH, DIM)
    assert kernels.packable(q, sight, None)
    assert_same(outcome(kernels.split, sight, q, k, v), outcome(kernels.eager, sight, q, k, v))
    assert_same(outcome(kernels.attend, sight, q, k, v), outcome(kernels.eager, sight, q, k, v))


def test_split_attends_across_to_a_packed_memory():
    queries, keys = packed_tokens([2, 2, 5]), packed_tokens([4, 4, 1])
    q, k, v = randn(1, HEADS, 9, DIM), randn(1, HEADS, 9, DIM), randn(1, HEADS, 9, DIM)
    sight = Sight(Full(), queries, keys)
    assert_same(outcome(kernels.split, sight, q, k, v), outcome(kernels.eager, sight, q, k, v))


def test_packed_rows_with_a_bias_fall_back_to_the_dense_mask():
    tokens = packed_tokens([4, 5])
    sight, bias = Sight(Causal(), tokens, tokens), randn(1, HEADS, LENGTH, LENGTH)
    q, k, v = (randn(1, HEADS, LENGTH, DIM) for _ in range(3))
    assert_same(outcome(kernels.attend, sight, q, k, v, bias), outcome(kernels.eager, sight, q, k, v, bias))
    with pytest.raises(ValueError, match="no bias"):
        kernels.split(q, k, v, sight, bias)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_scale(scale):
    q, k, v = (randn(ROWS, HEADS, LENGTH, DIM) for _ in range(3))
    sight = Sight(Causal())
    assert_same(outcome(kernels.sdpa, sight, q, k, v, None, scale), outcome(kernels.eager, sight, q, k, v, None, scale))


def test_single_query_over_many_keys():
    q, k, v = randn(ROWS, HEADS, 1, DIM), randn(ROWS, HEADS, 50, DIM), randn(ROWS, HEADS, 50, DIM)
    for rule in (Full(), Causal(), Causal() & Window(7, sinks=2)):
        assert_same(outcome(kernels.sdpa, Sight(rule), q, k, v), outcome(kernels.eager, Sight(rule), q, k, v))


@pytest.mark.parametrize("name", SIGHTS)
def test_bfloat16_trains_with_plain_products(name):
    """As close to the exact outcome as bfloat16 allows, whichever kernel is chosen."""
    torch.manual_seed(0)
    exact = [randn(ROWS, HEADS, LENGTH, DIM) for _ in range(3)]
    halves = [t.detach().bfloat16().requires_grad_() for t in exact]
    ours = outcome(kernels.attend, SIGHTS[name], *halves)
    for a, b in zip(ours, outcome(kernels.eager, SIGHTS[name], *exact), strict=True):
        assert (a.double() - b).norm() <= 0.02 * b.norm()


def test_use_overrides_the_choice_and_gives_it_back():
    q, k, v = (randn(1, 1, 3, 4) for _ in range(3))
    with pytest.raises(ValueError, match="choose one of eager, sdpa"), kernels.use("fastest"):
        pass
    with kernels.use("split"), pytest.raises(ValueError, match="one packed row"):
        kernels.attend(q, k, v, Sight())
    assert kernels.attend(q, k, v, Sight()).shape == (1, 1, 3, 4)


@CUDA
@pytest.mark.parametrize("name", SIGHTS)
@pytest.mark.parametrize("kernel", ["sdpa", "flex", "xformers"])
def test_cuda_kernels_equal_eager(kernel, name):
    if kernel == "xformers":
        pytest.importorskip("xformers")
    if kernel != "sdpa" and "sees nothing" in name:
        pytest.skip("undefined there")
    torch.manual_seed(0)

    def to_cuda(tokens: Tokens) -> Tokens:
        return Tokens(*(t.cuda() if isinstance(t, torch.Tensor) else t for t in tokens))

    sight = SIGHTS[name]
    sight = Sight(_rule_to_cuda(sight.rule), to_cuda(sight.queries), to_cuda(sight.keys))
    q, k, v = (torch.randn(ROWS, HEADS, LENGTH, DIM, device="cuda", requires_grad=True) for _ in range(3))
    bias = torch.randn(1, HEADS, LENGTH, LENGTH, device="cuda")
    real = sight.queries.index >= 0 if sight.queries.index is not None else torch.ones(1, LENGTH, device="cuda") > 0
    for given in (None, bias):
        push = torch.randn(ROWS, HEADS, LENGTH, DIM, device="cuda") * real[:, None, :, None]
        results = []
        for f in (kernels.KERNELS[kernel], kernels.eager):
            y = f(q, k, v, sight, given, None) * real[:, None, :, None]
            results.append((y, *torch.autograd.grad((y * push).sum(), (q, k, v))))
        assert_same(*results, tolerance=2e-3)


@CUDA
@pytest.mark.parametrize("kernel", ["split", "varlen", "xformers"])
@pytest.mark.parametrize("rule", [Full(), Causal(), Causal() & Window(2)], ids=str)
def test_cuda_packed_kernels_equal_eager(kernel, rule):
    if kernel == "xformers":
        pytest.importorskip("xformers")
    tokens = packed_tokens([2, 2, 4, 1], "cuda")
    q, k, v = (torch.randn(1, HEADS, LENGTH, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    sight = Sight(rule, tokens, tokens)
    reference = kernels.eager(q.float(), k.float(), v.float(), sight)
    torch.testing.assert_close(kernels.KERNELS[kernel](q, k, v, sight).float(), reference, atol=3e-2, rtol=3e-2)


def _rule_to_cuda(rule):
    match rule:
        case Prefix(lengths):
            return Prefix(lengths.cuda())
        case Dense(mask):
            return Dense(mask.cuda())
    if hasattr(rule, "a"):
        return type(rule)(_rule_to_cuda(rule.a), _rule_to_cuda(rule.b))
    return rule


@pytest.mark.parametrize(("native", "amx"), [(True, False), (True, True), (False, False)])
def test_blocks_are_for_bfloat16_without_amx(native: bool, amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    (kernel,) = {module.kernel for module in in_blocks(attention(8, 2)).modules() if isinstance(module, Attention)}
    assert kernel is (blocked if native and not amx else kernels.attend)
