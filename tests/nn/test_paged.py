"""Pages against keys and values that grow in one piece."""

import pytest
import torch
from torch import Tensor

from core.nn import (
    Block,
    Cache,
    Causal,
    Ctx,
    Growing,
    OutOfPages,
    Pages,
    Residual,
    RMSNorm,
    Rope,
    Stack,
    Tokens,
    rope_frequencies,
)
from core.nn import attention as attention_of
from core.nn.paged import BlockTable

DIM = 16


def stack(depth: int = 2) -> Stack:
    torch.manual_seed(0)
    turn = Rope(rope_frequencies(4, 100.0))

    def block() -> Block:
        own = attention_of(DIM, 4, kv_heads=2, turn=turn, mask=Causal(), bias="")
        return Block(attn=Residual(RMSNorm(DIM), own))

    return Stack([block() for _ in range(depth)]).double().requires_grad_(False)


def x(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 4, 16])
def test_the_same_as_one_piece(size: int) -> None:
    blocks, given = stack(), x(3, 23)
    paged, grown = blocks.cache(Pages(size=size).slot), blocks.cache(Growing)
    at = 0
    for count in (7, 1, 5, 4):
        part = given[:, at : at + count]
        torch.testing.assert_close(blocks(part, Ctx(cache=paged)).x, blocks(part, Ctx(cache=grown)).x)
        at += count
        assert paged.length == at
    for cache in (paged, grown):
        cache.truncate(10)
        cache.reorder(torch.tensor([2, 2, 0, 1]))
    for count in (1, 3):
        part = x(4, count, seed=count)
        torch.testing.assert_close(blocks(part, Ctx(cache=paged)).x, blocks(part, Ctx(cache=grown)).x)


def test_rows_of_unlike_length_that_come_and_go() -> None:
    blocks, pages = stack(), Pages(size=4)
    cache = blocks.cache(pages.slot)
    texts = [x(length, seed=length) for length in (3, 9, 17)]
    whole = [blocks(text[None]).x[0] for text in texts]
    tables = [BlockTable() for _ in texts]
    for text, table in zip(texts, tables, strict=True):  # each is read alone, up to its last token but one
        pages.rows = [table]
        blocks(text[None, :-2], Ctx(cache=cache))
    for late in (2, 1):
        pages.rows = tables
        new = torch.stack([text[-late] for text in texts])[:, None]
        index = torch.tensor([[len(text) - late] for text in texts])
        found = blocks(new, Ctx(tokens=Tokens(index=index), cache=cache)).x[:, 0]
        torch.testing.assert_close(found, torch.stack([states[-late] for states in whole]))
    before = len(pages._free)
    pages.close(tables[1])
    assert len(pages._free) == before + 3


def test_padding_is_seen_by_nobody() -> None:
    blocks, text = stack(), x(1, 6)
    padded = torch.cat([torch.zeros(1, 2, DIM, dtype=torch.float64), text], 1)
    index = torch.tensor([[-1, -1, 0, 1, 2, 3, 4, 5]])
    cache = blocks.cache(Pages(size=4).slot)
    found = blocks(padded, Ctx(tokens=Tokens(index=index), cache=cache)).x[:, 2:]
    torch.testing.assert_close(found, blocks(text).x)


def test_beams_share_what_they_have_in_common() -> None:
    blocks, pages = stack(), Pages(count=8, size=4)
    cache = blocks.cache(pages.slot)
    blocks(x(1, 10), Ctx(cache=cache))
    assert pages.available == 5
    cache.reorder(torch.tensor([0, 0, 0]))
    assert pages.available == 5
    assert pages.storage is not None
    blocks(x(3, 1), Ctx(cache=cache))  # each writes into the page that is not full: two need one of their own
    assert pages.available == 3
    cache.reorder(torch.tensor([1]))
    assert pages.available == 5


def test_a_full_pool_changes_nothing() -> None:
    blocks, pages = stack(), Pages(count=2, size=4)
    cache = blocks.cache(pages.slot)
    blocks(x(1, 8), Ctx(cache=cache))
    with pytest.raises(OutOfPages, match="1 more pages of 4 tokens are needed, 0 are free"):
        blocks(x(1, 1), Ctx(cache=cache))
    assert cache.length == 8


def test_what_pages_cannot_do() -> None:
    with pytest.raises(ValueError, match="at least one page"):
        Pages(0)
    blocks, pages = stack(), Pages()
    cache = blocks.cache(pages.slot)
    with pytest.raises(ValueError, match="one text a row"):
        blocks(x(1, 2), Ctx(tokens=Tokens(segment=torch.zeros(1, 2, dtype=torch.long)), cache=cache))
    blocks(x(2, 2), Ctx(cache=cache))
    with pytest.raises(ValueError, match="2 rows was given 3"):
        blocks(x(3, 1), Ctx(cache=cache))
    with pytest.raises(RuntimeError, match="use a new pool"):
        Cache({0: {"attn": pages.slot()}})
