"""Every rule against the sentence that defines it, pair by pair."""

import pytest
import torch

from core.nn import Causal, Dense, Full, Prefix, Sight, Tokens, Window, packed_tokens, padded_tokens

ROWS, HEADS, LENGTH = 2, 3, 7


def dense(rule, queries=Tokens(), keys=Tokens(), length=LENGTH, size=LENGTH):
    q, k = torch.empty(ROWS, HEADS, length, 4), torch.empty(ROWS, HEADS, size, 4)
    mask = Sight(rule, queries, keys).dense(q, k)
    if mask is None:
        return torch.ones(ROWS, HEADS, length, size, dtype=torch.bool)
    return mask.expand(ROWS, HEADS, length, size)


def table(judge, length=LENGTH, size=LENGTH):
    """The mask whose entry (row, head, i, j) is judge(row, head, i, j), for i and j counted from the end."""
    return torch.tensor(
        [[[[bool(judge(b, h, i + size - length, j)) for j in range(size)] for i in range(length)] for h in range(HEADS)]
         for b in range(ROWS)]
    )  # fmt: skip


ARBITRARY = torch.rand(ROWS, HEADS, LENGTH, LENGTH, generator=torch.Generator().manual_seed(1)) > 0.5
PREFIX = torch.tensor([2, 4])
RULES = {
    "full": (Full(), lambda b, h, i, j: True),
    "causal": (Causal(), lambda b, h, i, j: j <= i),
    "window": (Window(3), lambda b, h, i, j: abs(i - j) < 3),
    "window with sinks": (Window(2, sinks=2), lambda b, h, i, j: abs(i - j) < 2 or j < 2),
    "causal window with sinks": (Causal() & Window(2, sinks=1), lambda b, h, i, j: j <= i and (i - j < 2 or j < 1)),
    "prefix language model": (Causal() | Prefix(PREFIX), lambda b, h, i, j: j <= i or j < PREFIX[b]),
    "arbitrary": (Dense(ARBITRARY), lambda b, h, i, j: ARBITRARY[b, h, i, j]),
    "arbitrary, one row": (Dense(ARBITRARY[:1, :1]), lambda b, h, i, j: ARBITRARY[0, 0, i, j]),
    "arbitrary and causal": (Causal() & Dense(ARBITRARY), lambda b, h, i, j: j <= i and ARBITRARY[b, h, i, j]),
    "full and causal": (Full() & Causal(), lambda b, h, i, j: j <= i),
    "full or causal": (Full() | Causal(), lambda b, h, i, j: True),
}


@pytest.mark.parametrize("name", RULES)
def test_rule_keeps_what_its_sentence_says(name):
    rule, judge = RULES[name]
    assert torch.equal(dense(rule), table(judge))


@pytest.mark.parametrize("name", [n for n in RULES if "arbitrary" not in n])
def test_queries_are_the_last_of_the_keys(name):
    rule, judge = RULES[name]
    assert torch.equal(dense(rule, length=3), table(judge, length=3))


@pytest.mark.parametrize("name", ["full", "causal", "causal window with sinks"])
@pytest.mark.parametrize("left", [False, True])
def test_padding_is_seen_by_nobody_and_order_starts_after_it(name, left):
    rule, judge = RULES[name]
    lengths = torch.tensor([4, 7])
    tokens = padded_tokens(lengths, LENGTH, left=left)
    mask = dense(rule, tokens, tokens)
    for row, n in enumerate(lengths.tolist()):
        inside = slice(LENGTH - n, LENGTH) if left else slice(0, n)
        expected = torch.tensor([[bool(judge(row, 0, i, j)) for j in range(n)] for i in range(n)])
        assert torch.equal(mask[row, 0, inside, inside], expected)
        outside = torch.ones(LENGTH, dtype=torch.bool)
        outside[inside] = False
        assert not mask[row, :, :, outside].any()


@pytest.mark.parametrize("name", ["full", "causal", "window with sinks"])
def test_packed_segments_do_not_see_each_other(name):
    rule, judge = RULES[name]
    lengths = [3, 1, 3]
    tokens = packed_tokens(lengths)
    place = [(s, i) for s, n in enumerate(lengths) for i in range(n)]
    mask = dense(rule, tokens, tokens)
    assert torch.equal(
        mask, table(lambda b, h, i, j: place[i][0] == place[j][0] and judge(b, h, place[i][1], place[j][1]))
    )


def test_tokens_of_equal_index_see_each_other_under_a_causal_rule():
    tokens = Tokens(index=torch.tensor([[0, 0, 0, 1, 2, 3, 4]]))
    assert torch.equal(dense(Causal(), tokens, tokens), table(lambda b, h, i, j: j <= i or j < 3))


def test_masks_that_say_nothing_are_not_built():
    q, k = torch.empty(1, 1, 1, 4), torch.empty(1, 1, 9, 4)
    assert Sight(Full()).dense(k, k) is None
    assert Sight(Causal()).dense(q, k) is None
    assert Sight(Window(3)).dense(q, k) is not None


def test_packing_needs_tokens():
    with pytest.raises(ValueError, match="at least one token"):
        packed_tokens([3, 0])
