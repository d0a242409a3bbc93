"""Decoding in steps with a cache gives what one pass without a cache gives."""

import pytest
import torch

from core.nn import (
    ALiBi,
    Block,
    Causal,
    Ctx,
    Growing,
    LayerNorm,
    LogBuckets,
    Memory,
    Mlp,
    RelativeBias,
    Repeat,
    Residual,
    Ring,
    Rope,
    Stack,
    Static,
    Tokens,
    Window,
    attention,
    cross_attention,
    padded_tokens,
    rope_frequencies,
)

DIM, HEADS, LENGTH, ROWS = 32, 4, 12, 3


def decoder(rule=Causal(), turned=True, pair_bias=None, cross=True, kv_heads=2):
    def block():
        turn = Rope(rope_frequencies(DIM // HEADS)) if turned else None
        attn = attention(DIM, HEADS, kv_heads=kv_heads, turn=turn, mask=rule, pair_bias=pair_bias)
        branches = {"attn": Residual(LayerNorm(DIM), attn)}
        if cross:
            branches["cross"] = Residual(LayerNorm(DIM), cross_attention(DIM, HEADS, memory_dim=20))
        return Block(**branches, mlp=Residual(LayerNorm(DIM), Mlp(DIM)))

    return Stack(block() for _ in range(2)).double().eval()


def inputs(rows=ROWS):
    return torch.randn(rows, LENGTH, DIM).double(), Memory(torch.randn(rows, 5, 20).double())


@torch.no_grad()
def in_steps(model, x, cache, steps, memory=None, tokens=Tokens()):
    """Feed x in pieces of the given lengths; the memory is given with the first piece only."""
    outputs, start = [], 0
    for number, n in enumerate(steps):
        piece = Tokens(*(None if t is None else t[:, start : start + n] for t in tokens[:3]))
        ctx = Ctx(tokens=piece, cache=cache, memory=memory if number == 0 else None)
        outputs.append(model(x[:, start : start + n], ctx).x)
        start += n
    return torch.cat(outputs, 1)


STEPS = [[1] * LENGTH, [5, 1, 1, 3, 1, 1], [LENGTH], [2, 10]]
SLOTS = {
    "growing": (lambda: Growing(room=2), Causal()),
    "static": (lambda: Static(LENGTH + 3), Causal()),
    "ring": (lambda: Ring(4), Causal() & Window(4)),
    "ring with sinks": (lambda: Ring(3, sinks=2), Causal() & Window(3, sinks=2)),
    "growing under a window": (Growing, Causal() & Window(3, sinks=1)),
    "static under a window": (lambda: Static(LENGTH), Causal() & Window(3, sinks=1)),
}
PAIR_BIAS = {"none": None, "alibi": ALiBi(HEADS), "t5": RelativeBias(HEADS, LogBuckets(8, 6, both_ways=False))}


@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize("slot", SLOTS)
def test_cached_equals_uncached(slot, steps):
    make, rule = SLOTS[slot]
    model = decoder(rule)
    x, memory = inputs()
    cache = model.cache(make)
    torch.testing.assert_close(
        in_steps(model, x, cache, steps, memory), model(x, Ctx(memory=memory)).x, atol=1e-12, rtol=0
    )
    assert int(cache.length) == LENGTH


@pytest.mark.parametrize("slot", ["growing", "static", "ring with sinks"])
@pytest.mark.parametrize("bias", ["alibi", "t5"])
def test_cached_equals_uncached_with_a_pair_bias(slot, bias):
    make, rule = SLOTS[slot]
    model = decoder(rule, turned=False, pair_bias=PAIR_BIAS[bias], cross=False)
    x, _ = inputs()
    torch.testing.assert_close(in_steps(model, x, model.cache(make), [3, 1, 1, 7]), model(x).x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("slot", ["growing", "static", "ring with sinks"])
def test_left_padded_rows_equal_rows_alone(slot):
    make, rule = SLOTS[slot]
    model = decoder(rule, cross=False)
    x, _ = inputs()
    lengths = [12, 7, 4]
    tokens = padded_tokens(torch.tensor(lengths), LENGTH, left=True)
    # a ring drops the oldest slots, so padding must not use up its room: it is fed whole
    steps = [LENGTH - 4, 1, 1, 1, 1] if slot != "ring with sinks" else [LENGTH]
    together = in_steps(model, x, model.cache(make), steps, tokens=tokens)
    for row, n in enumerate(lengths):
        alone = model(x[row : row + 1, LENGTH - n :]).x
        torch.testing.assert_close(together[row : row + 1, LENGTH - n :], alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize("slot", ["growing", "static", "ring"])
def test_reordered_beams_continue_their_own_history(slot):
    make, rule = SLOTS[slot]
    model = decoder(rule)
    x, memory = inputs()
    cache = model.cache(make)
    in_steps(model, x[:, :6], cache, [4, 1, 1], memory)
    rows = torch.tensor([2, 2, 0])
    cache.reorder(rows)
    beams = torch.cat([x[rows, :6], x[:, 6:]], 1)
    expected = model(beams, Ctx(memory=Memory(memory.x[rows]))).x[:, 6:]
    torch.testing.assert_close(in_steps(model, x[:, 6:], cache, [1] * 6), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("slot", ["growing", "static", "growing under a window", "static under a window"])
@pytest.mark.parametrize("kept", [0, 3, 6])
def test_what_was_taken_back_is_forgotten(slot, kept):
    make, rule = SLOTS[slot]
    model = decoder(rule)
    x, memory = inputs()
    other = torch.randn_like(x)
    other[:, :kept] = x[:, :kept]
    for facts in (Tokens(), Tokens(index=torch.arange(LENGTH).expand(ROWS, -1))):
        cache = model.cache(make)
        before = facts.map(lambda fact: fact[:, :6])
        in_steps(model, x[:, :6], cache, [4, 2], memory, before)
        cache.truncate(kept)
        assert int(cache.length) == kept
        after = facts.map(lambda fact, kept=kept: fact[:, kept:])
        found = in_steps(model, other[:, kept:], cache, [1] * (LENGTH - kept), tokens=after)
        expected = model(other, Ctx(memory=memory)).x[:, kept:]
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_truncating_to_more_than_there_is_changes_nothing():
    for make in (Growing, lambda: Static(LENGTH)):
        model = decoder()
        x, memory = inputs()
        cache = model.cache(make)
        cache.truncate(3)
        in_steps(model, x[:, :5], cache, [5], memory)
        cache.truncate(9)
        assert int(cache.length) == 5


def test_a_ring_cannot_be_truncated():
    with pytest.raises(TypeError, match="a Ring slot can't be truncated: use Growing or Static"):
        Ring(4).truncate(2)


def test_a_ring_holds_no_more_than_its_window():
    model = decoder(Causal() & Window(3, sinks=2), cross=False)
    x, _ = inputs()
    cache = model.cache(lambda: Ring(3, sinks=2))
    in_steps(model, x, cache, [7, 1, 4])
    assert all(slot._k.shape[2] == 5 for slot in cache.slots())


def test_the_cross_slot_owns_its_key_tokens():
    """Padding of the memory is given with the first call and holds for all later ones."""
    model = decoder()
    x, memory = inputs()
    padded = Memory(memory.x, padded_tokens(torch.tensor([5, 3, 1]), 5))
    stepped = in_steps(model, x, model.cache(), [4, 8], padded)
    for row, n in enumerate([5, 3, 1]):
        alone = model(x[row : row + 1], Ctx(memory=Memory(memory.x[row : row + 1, :n]))).x
        torch.testing.assert_close(stepped[row : row + 1], alone, atol=1e-12, rtol=0)


def test_facts_given_once_must_be_given_always():
    model = decoder(cross=False)
    x, _ = inputs()
    cache = model.cache()
    in_steps(model, x[:, :4], cache, [4], tokens=padded_tokens(torch.tensor([4, 4, 4]), 4))
    with pytest.raises(ValueError, match=r"tokens\.index must be given on every call"):
        in_steps(model, x[:, 4:], cache, [1])


def test_a_static_slot_does_not_overflow_silently():
    model = decoder(cross=False)
    x, _ = inputs()
    with pytest.raises(IndexError):
        in_steps(model, x, model.cache(lambda: Static(4)), [3, 3])


def test_rounds_of_a_repeated_stack_have_slots_of_their_own():
    model = Stack([Repeat(decoder(cross=False), 2)]).double().eval()
    x, _ = inputs()
    cache = model.cache()
    assert len(list(cache.slots())) == 4
    torch.testing.assert_close(in_steps(model, x, cache, [5, 1, 6]), model(x).x, atol=1e-12, rtol=0)


def test_a_stack_that_cannot_be_cached_says_so():
    with pytest.raises(TypeError, match="block 0 is a Linear"):
        Stack([torch.nn.Linear(2, 2)]).cache()


@pytest.mark.parametrize("slot", ["growing", "static"])
def test_segments_and_coords_of_cached_keys_are_kept(slot):
    """Two packed sequences decoded in one row, and positions that are not the order."""
    make, rule = SLOTS[slot]
    segment = torch.tensor([[0] * 5 + [1] * 7])
    coords = torch.randint(0, 9, (1, LENGTH))
    index = torch.arange(LENGTH)[None]
    for bias in (None, ALiBi(HEADS)):
        model = decoder(rule, turned=bias is None, pair_bias=bias, cross=False)
        x, _ = inputs()
        tokens = Tokens(index, segment, coords)
        stepped = in_steps(model, x, model.cache(make), [4, 1, 1, 6], tokens=tokens)
        torch.testing.assert_close(stepped, model(x, Ctx(tokens=tokens)).x, atol=1e-12, rtol=0)


def test_a_branch_has_one_slot():
    two = torch.nn.ModuleList([attention(8, 2), attention(8, 2)])
    with pytest.raises(TypeError, match="'attn' holds 2 attentions"):
        Block(attn=two).slots(Growing)
