"""A mixture of experts against transformers' Mixtral and Qwen3-MoE, and its two losses against closed forms."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.nn import Ctx, MixtureOfExperts, Tokens
from core.nn.scaling import Linear, Ntk, scaled_frequencies

DIM, HIDDEN, EXPERTS, ACTIVE = 16, 24, 5, 2


@pytest.fixture
def block() -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(DIM, HIDDEN, EXPERTS, ACTIVE).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 7, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("normalise", [True, False])
def test_each_token_alone(block: MixtureOfExperts, x: Tensor, normalise: bool) -> None:
    block.normalise = normalise
    wanted = torch.empty_like(x)
    for row in range(3):
        for place in range(7):
            token = x[row, place]
            weight, chosen = block.router(token).softmax(0).topk(ACTIVE)
            weight = weight / weight.sum() if normalise else weight
            wanted[row, place] = sum(w * block.experts[int(e)](token) for w, e in zip(weight, chosen, strict=True))
    torch.testing.assert_close(block(x), wanted)


def test_the_dense_sum_is_the_same(block: MixtureOfExperts, x: Tensor) -> None:
    found: list[Any] = []
    for fn in (block, torch.compile(block, backend="eager", fullgraph=True)):
        block.zero_grad()
        y = fn(x)
        y.square().sum().backward()
        found.append([y.detach(), *(parameter.grad for parameter in block.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_losses_equal_transformers(block: MixtureOfExperts, x: Tensor) -> None:
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    notes: dict[str, Any] = {}
    block(x, Ctx(notes=notes))
    logits = block.router(x).flatten(0, 1)
    wanted = mixtral.load_balancing_loss_func((logits,), EXPERTS, ACTIVE)
    torch.testing.assert_close(notes["balance"], wanted, check_dtype=False, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(notes["z"], logits.exp().sum(-1).log().square().mean())
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    block(x, Ctx(tokens=Tokens(index=torch.where(mask > 0, torch.arange(7), -1)), notes=notes))
    wanted = mixtral.load_balancing_loss_func((logits,), EXPERTS, ACTIVE, attention_mask=mask)
    torch.testing.assert_close(notes["balance"], wanted, check_dtype=False, atol=1e-6, rtol=1e-5)
    kept = logits[mask.flatten() > 0]
    torch.testing.assert_close(notes["z"], kept.logsumexp(-1).square().mean())


def test_a_router_that_knows_nothing_is_balanced(block: MixtureOfExperts, x: Tensor) -> None:
    nn.init.zeros_(block.router.weight)
    notes: dict[str, Any] = {}
    block(x, Ctx(notes=notes))
    assert notes["balance"].item() == pytest.approx(ACTIVE)  # EXPERTS * sum of share / EXPERTS


def test_experts_without_tokens_have_gradients_too(block: MixtureOfExperts, x: Tensor) -> None:
    block(x[:1, :1]).sum().backward()
    assert all(parameter.grad is not None for parameter in block.experts.parameters())


def test_no_losses_without_gradients(block: MixtureOfExperts, x: Tensor) -> None:
    notes: dict[str, Any] = {}
    with torch.no_grad():
        block(x, Ctx(notes=notes))
    assert not notes


def test_impossible_counts() -> None:
    with pytest.raises(ValueError, match="6 of 5 experts"):
        MixtureOfExperts(DIM, HIDDEN, 5, 6)


def test_simple_scalings() -> None:
    plain = scaled_frequencies(16, 1e4, None)[0]
    torch.testing.assert_close(scaled_frequencies(16, 1e4, Linear(4.0))[0], plain / 4)
    raised, magnitude = scaled_frequencies(16, 1e4, Ntk(4.0))
    assert magnitude == 1
    torch.testing.assert_close(raised[-1], plain[-1] / 4)
    torch.testing.assert_close(raised[0], plain[0])
