"""Looking inside: what is captured is right, and what comes out does not change by a bit.

The weights are compared with those that ``nn.MultiheadAttention`` returns.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import DIM, HEADS, MEMORY, decoder, memory

from core.nn import (
    ALiBi,
    Attention,
    Block,
    Causal,
    Ctx,
    Dense,
    LayerNorm,
    Mlp,
    Residual,
    Stack,
    attention,
    cross_attention,
    kernels,
    pack,
    padded_tokens,
    recomputed,
)

ROWS, LENGTH = 2, 7


def peer(attn: Attention, x: Tensor, given: Tensor, **masks) -> Tensor:
    """The weights (B, heads, L, S) of PyTorch's own module with our projections."""
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True, kdim=given.shape[-1], vdim=given.shape[-1]).eval()
    state = {"out_proj.weight": attn.out.weight, "out_proj.bias": attn.out.bias}
    parts = [attn.q.proj, attn.k.proj, attn.v.proj]
    state["in_proj_bias"] = torch.cat([part.bias for part in parts])
    if given.shape[-1] == DIM:
        state["in_proj_weight"] = torch.cat([part.weight for part in parts])
    else:
        state |= {f"{name}_proj_weight": part.weight for name, part in zip("qkv", parts, strict=True)}
    theirs.load_state_dict(state)
    return theirs(x, given, given, average_attn_weights=False, **masks)[1]


def captured(attn: Attention, x: Tensor, want, **fields) -> Tensor:
    """What one attention notes; its result must be what it is without."""
    notes: dict = {}
    seen = attn(x, Ctx(want=want, notes=notes, **fields))
    assert torch.equal(seen, attn(x, Ctx(**fields)))
    return notes["weights"]


@pytest.mark.parametrize("heads", [True, [0, 1, 2, 3], [2], [3, 1]], ids=str)
@torch.no_grad()
def test_weights_are_those_of_pytorch(heads) -> None:
    """Everyone, causal, padded, biased, and of another sequence: all heads, some, in any order."""
    x, given, picked = torch.randn(ROWS, LENGTH, DIM), memory(ROWS), slice(None) if heads is True else heads
    future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    tokens = padded_tokens(torch.tensor([LENGTH, 4]), LENGTH)
    where = torch.arange(LENGTH)[None]
    slopes = ALiBi(HEADS)(where, where).repeat(ROWS, 1, 1, 1).flatten(0, 1)
    cases = [
        (attention(DIM, HEADS), x, {}, {}),
        (attention(DIM, HEADS, mask=Causal()), x, {}, {"attn_mask": future}),
        (attention(DIM, HEADS), x, {"tokens": tokens}, {"key_padding_mask": tokens.index < 0}),
        (attention(DIM, HEADS, pair_bias=ALiBi(HEADS)), x, {}, {"attn_mask": slopes}),
        (cross_attention(DIM, HEADS, memory_dim=MEMORY), given.x, {"memory": given}, {}),
    ]
    for attn, source, ours, theirs in cases:
        found, wanted = captured(attn, x, heads, **ours), peer(attn, x, source, **theirs)[:, picked]
        torch.testing.assert_close(found, wanted, atol=2e-7, rtol=1e-5)


@torch.no_grad()
def test_grouped_queries_see_the_keys_of_their_group() -> None:
    """Which is what as many heads see whose keys are repeated."""
    attn = attention(DIM, HEADS, kv_heads=2)
    wide = attention(DIM, HEADS)
    wide.load_state_dict(attn.state_dict() | _repeated(attn, 2))
    x = torch.randn(ROWS, LENGTH, DIM)
    wanted = peer(wide, x, x)
    torch.testing.assert_close(captured(attn, x, True), wanted, atol=2e-7, rtol=1e-5)
    torch.testing.assert_close(captured(attn, x, [3, 0]), wanted[:, [3, 0]], atol=2e-7, rtol=1e-5)


def _repeated(attn: Attention, times: int) -> dict[str, Tensor]:
    return {
        f"{name}.{kind}": value.unflatten(0, (-1, DIM // HEADS)).repeat_interleave(times, 0).flatten(0, 1)
        for name in ("k.proj", "v.proj")
        for kind, value in attn.get_submodule(name).state_dict().items()
    }


@torch.no_grad()
def test_a_rule_of_its_own_for_each_head() -> None:
    attn, x = attention(DIM, HEADS), torch.randn(ROWS, LENGTH, DIM)
    seen = torch.rand(1, HEADS, LENGTH, LENGTH) < 0.5
    seen |= torch.eye(LENGTH, dtype=torch.bool)
    wanted = peer(attn, x, x, attn_mask=~seen.repeat(ROWS, 1, 1, 1).flatten(0, 1))[:, [3, 1]]
    torch.testing.assert_close(captured(attn, x, [3, 1], mask=Dense(seen)), wanted, atol=2e-7, rtol=1e-5)


@torch.no_grad()
def test_packed_rows_are_captured_as_one_square() -> None:
    attn = attention(DIM, HEADS)
    parts = [torch.randn(n, DIM) for n in (3, 4)]
    row, tokens = pack(parts)
    found = captured(attn, row, True, tokens=tokens)
    first, second = (peer(attn, part[None], part[None])[0] for part in parts)
    wanted = torch.stack([torch.block_diag(a, b) for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(found[0], wanted, atol=2e-7, rtol=1e-5)


@torch.no_grad()
def test_steps_with_a_cache_capture_the_rows_of_the_whole() -> None:
    model = decoder()
    x, given = torch.randn(ROWS, LENGTH, DIM), memory(ROWS)
    want = {1: {"attn": [3, 0], "cross": True}}
    whole = model(x, Ctx(memory=given, want=want)).notes[1]
    cache = model.cache()
    for i in range(LENGTH):
        step = model(x[:, i : i + 1], Ctx(memory=given, cache=cache, want=want)).notes[1]
        mine = whole["attn"]["weights"][:, :, i : i + 1, : i + 1]
        torch.testing.assert_close(step["attn"]["weights"], mine, atol=5e-7, rtol=1e-5)
        torch.testing.assert_close(step["cross"]["weights"], whole["cross"]["weights"][:, :, [i]], atol=5e-7, rtol=1e-5)


@pytest.mark.parametrize("run", [None, recomputed])
def test_capture_changes_neither_results_nor_gradients(run) -> None:
    model = decoder() if run is None else decoder(run=run)
    x, given = torch.randn(ROWS, LENGTH, DIM), memory(ROWS)
    want = {0: {"attn": True, "hidden": True}, 1: {"cross": [2]}}
    found = []
    for asked in (None, want):
        y = model(x, Ctx(memory=given, want=asked)).x
        found.append((y, torch.autograd.grad(y.square().sum(), list(model.parameters()))))
    torch.testing.assert_close(*found, atol=0, rtol=0)


def test_every_attention_stays_fused(monkeypatch) -> None:
    """All run through SDPA as ever; the plain formula is worked out for the heads that were asked for alone."""
    fused, plain = [], []
    sdpa, weights = F.scaled_dot_product_attention, kernels.weights

    def count_fused(q, *args, **kwargs):
        fused.append(q.shape[1])
        return sdpa(q, *args, **kwargs)

    def count_plain(q, *args, **kwargs):
        plain.append(q.shape[1])
        return weights(q, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", count_fused)
    monkeypatch.setattr(kernels, "weights", count_plain)
    model = decoder(3)
    x, given = torch.randn(ROWS, LENGTH, DIM), memory(ROWS)
    notes = model(x, Ctx(memory=given, want={1: {"cross": [0, 2]}, 2: {"attn": [1]}})).notes
    assert fused == [HEADS] * 6
    assert plain == [2, 1]
    assert {number: set(found) for number, found in notes.items()} == {1: {"cross"}, 2: {"attn"}}


def test_hidden_states_are_what_leaves_the_block() -> None:
    model = Stack(
        Block(attn=Residual(LayerNorm(DIM), attention(DIM, HEADS)), mlp=Residual(LayerNorm(DIM), Mlp(DIM)))
        for _ in range(3)
    )
    seen: dict[int, Tensor] = {}
    for number, block in enumerate(model):
        block.register_forward_hook(lambda _, __, out, number=number: seen.update({number: out.x}))
    x = torch.randn(ROWS, LENGTH, DIM)
    y, notes = model(x, Ctx(want={0: {"hidden": True}, 2: {"hidden": True}, 1: {"attn": [0]}}))
    assert {number: set(found) for number, found in notes.items()} == {0: {"hidden"}, 1: {"attn"}, 2: {"hidden"}}
    assert torch.equal(notes[0]["hidden"], seen[0])
    assert torch.equal(notes[2]["hidden"], y)


def test_a_loss_on_captured_weights_trains_what_made_them() -> None:
    model = decoder()
    notes = model(torch.randn(ROWS, LENGTH, DIM), Ctx(memory=memory(ROWS), want={1: {"cross": [1]}})).notes
    notes[1]["cross"]["weights"][..., 0].sum().backward()
    assert model[1].cross.fn.q.proj.weight.grad.abs().sum() > 0
    assert model[1].cross.fn.v.proj.weight.grad is None
    assert model[0].mlp.fn.fc1.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_half_precision_is_captured_in_single() -> None:
    """Sums of weights are worked with (alignment, rollout): bfloat16 has three digits."""
    attn, x = attention(DIM, HEADS).bfloat16(), torch.randn(ROWS, LENGTH, DIM).bfloat16()
    found = captured(attn, x, True)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(-1), torch.ones(ROWS, HEADS, LENGTH), atol=1e-6, rtol=0)
