"""Recomputed blocks: less is kept, and nothing else changes."""

import pytest
import torch
from torch import nn
from toys import DIM, decoder, gradients, memory

from core.nn import Block, Ctx, DropPath, LayerNorm, Mlp, Residual, Stack, attention, direct, padded_tokens, recomputed


def trained(model: Stack, run, x: torch.Tensor, ctx: Ctx, seed: int = 1):
    """Outputs, notes and gradients of one step, the input's too."""
    model.run = run
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)
    y, notes = model(x, ctx)
    y.square().mean().backward()
    return y, notes, x.grad, gradients(model)


def test_results_and_gradients_are_the_same() -> None:
    """To the last bit: with padding, cross-attention, and what was captured on the way."""
    ctx = Ctx(
        tokens=padded_tokens(torch.tensor([7, 4]), 7),
        memory=memory(2),
        want={0: {"hidden": True}, 1: {"attn": [1, 2], "cross": True}},
    )
    model, x = decoder(), torch.randn(2, 7, DIM)
    plain, again = (trained(model, run, x, ctx) for run in (direct, recomputed))
    assert set(again[1]) == {0, 1}
    torch.testing.assert_close(again, plain, atol=0, rtol=0)


def test_the_gradient_reaches_memory_conditioning_and_bias() -> None:
    model, x = decoder(), torch.randn(2, 7, DIM)
    found = []
    for run in (direct, recomputed):
        model.run = run
        given = memory(2)._replace(x=torch.ones(2, 5, 20, requires_grad=True))
        bias = torch.zeros(1, 4, 7, 7, requires_grad=True)
        y = model(x, Ctx(memory=given, bias=bias)).x
        found.append(torch.autograd.grad(y.square().mean(), (given.x, bias)))
    assert all(g.abs().sum() > 0 for g in found[0])
    torch.testing.assert_close(*found, atol=0, rtol=0)


def test_what_is_drawn_at_random_is_drawn_again() -> None:
    """Dropout and stochastic depth fall on the same places in both passes."""

    def post() -> nn.Module:
        return nn.Sequential(nn.Dropout(0.3), DropPath(0.3))

    model = Stack(
        Block(
            attn=Residual(LayerNorm(DIM), attention(DIM, 4), post()),
            mlp=Residual(LayerNorm(DIM), Mlp(DIM), post()),
        )
        for _ in range(2)
    )
    x = torch.randn(4, 7, DIM)
    plain, again = (trained(model, run, x, Ctx()) for run in (direct, recomputed))
    other = trained(model, recomputed, x, Ctx(), seed=2)
    torch.testing.assert_close(again, plain, atol=0, rtol=0)
    assert not torch.equal(other[0], plain[0])


@pytest.mark.parametrize("moe", [False, True])
def test_only_the_inputs_of_the_blocks_are_kept(moe) -> None:
    model, x, ctx = decoder(4, moe=moe), torch.randn(2, 50, DIM), Ctx(memory=memory(2))

    def kept(run) -> int:
        seen: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if not isinstance(tensor, nn.Parameter):
                storage = tensor.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        model.run = run
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(x, ctx)
        return sum(seen.values())

    plain, again = kept(direct), kept(recomputed)
    assert again < plain / 4
    assert again < 8 * x.nbytes


def test_each_block_runs_twice_in_training_and_once_without_gradients() -> None:
    model, x, ctx = decoder(run=recomputed), torch.randn(2, 5, DIM), Ctx(memory=memory(2))
    calls = []
    for number, block in enumerate(model):
        block.attn.register_forward_hook(lambda *_, number=number: calls.append(number))
    model(x, ctx).x.sum().backward()
    assert calls == [0, 1, 1, 0]
    calls.clear()
    with torch.no_grad():
        model(x, ctx)
    assert calls == [0, 1]
