"""A branch that writes a loss beside its result: the notes come back wherever the block runs."""

import pytest
import torch
from toys import DIM, MoE, balance, decoder, gradients, memory

from core.nn import Block, Ctx, LayerNorm, Mlp, Residual, Stack, direct, recomputed


def reference(moe: MoE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Token by token, expert by expert, as the papers put it."""
    experts = len(moe.up)
    y, chosen, probability = torch.zeros_like(x), x.new_zeros(experts), x.new_zeros(experts)
    for row, column in ((r, c) for r in range(x.shape[0]) for c in range(x.shape[1])):
        token = x[row, column]
        p = (moe.router.weight @ token).softmax(0)
        best = sorted(range(experts), key=lambda e: -p[e].item())[: moe.k]
        total = sum(p[e] for e in best)
        for e in best:
            y[row, column] += p[e] / total * ((token @ moe.up[e]).relu() @ moe.down[e])
            chosen[e] += 1
        probability = probability + p
    count = x.shape[0] * x.shape[1]
    return y, experts * (chosen / count * probability / count).sum()


def test_the_toy_is_right() -> None:
    moe = MoE(DIM, 24, 4, 2).double()
    x = torch.randn(2, 5, DIM).double()
    notes: dict = {}
    y = moe(x, Ctx(notes=notes))
    torch.testing.assert_close((y, notes["aux"]), reference(moe, x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("run", [direct, recomputed])
def test_a_stack_returns_the_notes_of_its_branches(run) -> None:
    stack = Stack(
        [
            Block(mlp=Residual(LayerNorm(DIM), MoE(DIM, 24, 4, 2))),
            Block(mlp=Residual(LayerNorm(DIM), Mlp(DIM))),
            Block(
                first=Residual(LayerNorm(DIM), MoE(DIM, 24, 4, 2)), second=Residual(LayerNorm(DIM), MoE(DIM, 24, 3, 1))
            ),
        ],
        run=run,
    ).double()
    x = torch.randn(2, 5, DIM).double()
    y, notes = stack(x)
    assert {number: set(found) for number, found in notes.items()} == {0: {"mlp"}, 2: {"first", "second"}}
    wanted, z = {}, x
    for number, block in enumerate(stack):
        for name, branch in block.named_children():
            step = branch.norm(z)
            if isinstance(branch.fn, MoE):
                step, wanted[number, name] = reference(branch.fn, step)
            else:
                step = branch.fn(step)
            z = z + step
    torch.testing.assert_close(y, z, atol=1e-12, rtol=1e-12)
    for (number, name), aux in wanted.items():
        torch.testing.assert_close(notes[number][name]["aux"], aux, atol=1e-12, rtol=1e-12)


def test_the_loss_of_balance_reaches_what_comes_before_it() -> None:
    """Alone, without any other loss: the routers learn from it, and so does whatever feeds them."""
    model = decoder(moe=True)
    _, notes = model(torch.randn(2, 5, DIM), Ctx(memory=memory(2)))
    balance(notes).backward()
    for number, block in enumerate(model):
        assert block.mlp.fn.router.weight.grad.abs().sum() > 0
        reached = block.attn.fn.out.weight.grad
        assert reached is not None
        assert reached.abs().sum() > 0, number


def test_recomputed_notes_and_their_gradients_are_the_same() -> None:
    model = decoder(moe=True)
    x, ctx = torch.randn(2, 5, DIM), Ctx(memory=memory(2))
    results = []
    for run in (direct, recomputed):
        model.run = run
        model.zero_grad()
        y, notes = model(x, ctx)
        (y.square().mean() + balance(notes)).backward()
        results.append((y, notes, gradients(model)))
    torch.testing.assert_close(*results, atol=0, rtol=0)


def test_nothing_is_left_in_the_context() -> None:
    """Each call has notes of its own: a context can be used again."""
    model = decoder(moe=True)
    x, ctx = torch.randn(2, 5, DIM), Ctx(memory=memory(2))
    first, second = model(x, ctx), model(torch.randn_like(x), ctx)
    assert ctx.notes is None
    assert first.notes[0]["mlp"]["aux"] != second.notes[0]["mlp"]["aux"]
