"""Sharded over two processes (CPU, gloo), the blocks compute what one process does.

Every check runs in both processes, which are started once for all of them; a test looks up how its check went.
"""

import copy
import datetime
import traceback
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from toys import DIM, MEMORY, balance, decoder

from core.nn import Ctx, LearnedPositions, Memory, Stack, direct, padded_tokens, recomputed

RANKS, ROWS, LENGTH = 2, 2, 7
CHECKS: dict[str, Callable[[int], None]] = {}


def check(function: Callable[[int], None]) -> Callable[[int], None]:
    """Run this in every process; it is given its rank."""
    CHECKS[function.__name__] = function
    return function


def work(rank: int, folder: str) -> None:
    """What a process does: all checks, and a file with what went wrong (nothing, where all is well)."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=60),
    )
    outcome = {}
    for name, run in CHECKS.items():
        torch.manual_seed(0)
        try:
            run(rank)
            outcome[name] = ""
        except Exception:
            outcome[name] = traceback.format_exc()
        # together again, even where only one of the two has failed
        dist.barrier()
    torch.save(outcome, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> list[dict[str, str]]:
    """What went wrong, by check, in each process."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def batches() -> list[tuple[Tensor, Ctx]]:
    """The inputs of every rank: padded rows that look at a memory."""
    tokens = padded_tokens(torch.tensor([LENGTH, LENGTH - 2]), LENGTH)
    return [
        (torch.randn(ROWS, LENGTH, DIM), Ctx(tokens=tokens, memory=Memory(torch.randn(ROWS, 5, MEMORY))))
        for _ in range(RANKS)
    ]


def loss(y: Tensor, notes: dict) -> Tensor:
    return y.float().square().mean() + (balance(notes).float() if notes else 0)


def whole(gradient: Tensor) -> Tensor:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def assert_same_gradients(found: nn.Module, wanted: nn.Module, tolerance: float = 1e-6) -> None:
    """All of them, however they are sharded."""
    theirs = dict(wanted.named_parameters())
    for name, parameter in found.named_parameters():
        name = name.removeprefix("module.")
        assert parameter.grad is not None, name
        torch.testing.assert_close(
            whole(parameter.grad), theirs[name].grad, atol=tolerance, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def shard(model: Stack, **options) -> Stack:
    """Every block by itself, as the parameters of one are gathered while it runs."""
    for block in model:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def averaged(model: Stack, given: list[tuple[Tensor, Ctx]]) -> list[Tensor]:
    """One process: the loss is the mean over the ranks' batches. Returns the outputs for each."""
    outs = [model(x, ctx) for x, ctx in given]
    (sum(loss(*out) for out in outs) / len(outs)).backward()
    return [out.x for out in outs]


def equals_one_process(rank: int, wrap: Callable[[Stack], nn.Module], moe: bool, run) -> None:
    model = decoder(moe=moe, run=run)
    given, single = batches(), copy.deepcopy(model)
    single.run = direct
    wanted = averaged(single, given)
    sharded = wrap(model)
    y, notes = sharded(*given[rank])
    assert set(notes) == ({0, 1} if moe else set())
    torch.testing.assert_close(y, wanted[rank], atol=0, rtol=0)
    loss(y, notes).backward()
    assert_same_gradients(sharded, single)


@check
def fsdp(rank: int) -> None:
    equals_one_process(rank, shard, moe=False, run=direct)


@check
def fsdp_recomputed(rank: int) -> None:
    equals_one_process(rank, shard, moe=False, run=recomputed)


@check
def fsdp_notes(rank: int) -> None:
    equals_one_process(rank, shard, moe=True, run=direct)


@check
def fsdp_recomputed_notes(rank: int) -> None:
    equals_one_process(rank, shard, moe=True, run=recomputed)


@check
def ddp_recomputed_notes(rank: int) -> None:
    """Replicated, with gradients averaged: Lightning's usual way."""
    equals_one_process(rank, DistributedDataParallel, moe=True, run=recomputed)


@check
def fsdp_half_precision(rank: int) -> None:
    """A policy casts every float that enters a block, and no integer: far positions keep their angles."""
    model = decoder()
    half = copy.deepcopy(model).bfloat16()
    sharded = shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    x, ctx = batches()[rank]
    coords = (torch.arange(LENGTH) * 37 + 4001)[None]
    ctx = ctx._replace(tokens=ctx.tokens._replace(coords=coords))
    rounded = ctx._replace(tokens=ctx.tokens._replace(coords=coords.bfloat16().long()))
    memory = Memory(ctx.memory.x.bfloat16())
    wanted = half(x.bfloat16(), ctx._replace(memory=memory)).x
    found = sharded(x, ctx).x
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, atol=0, rtol=0)
    assert not torch.equal(half(x.bfloat16(), rounded._replace(memory=memory)).x, wanted)


class Numbered(nn.Module):
    """A stack whose tokens are numbered on from those in the cache, as text decoders do."""

    def __init__(self, blocks: Stack) -> None:
        super().__init__()
        self.positions = LearnedPositions(LENGTH, DIM)
        self.blocks = blocks

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        coords = torch.arange(x.shape[1]) + (0 if ctx.cache is None else ctx.cache.length)
        return self.blocks(self.positions(x, coords[None]), ctx).x


@check
def fsdp_decoding(rank: int) -> None:
    """The cache passes through FSDP's casts as it is: what is written into it stays, and it still knows its length."""
    model = Numbered(decoder().eval())
    half = copy.deepcopy(model).bfloat16()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    shard(model.blocks, mp_policy=policy)
    sharded = fully_shard(model, mp_policy=policy)
    x, ctx = batches()[rank]
    found = []
    with torch.no_grad():
        for each, given in ((sharded, ctx.memory.x), (half, ctx.memory.x.bfloat16())):
            cache = each.blocks.cache()
            steps = x.to(given.dtype).split([3, 1, 1, 1, 1], 1)
            found.append(torch.cat([each(step, Ctx(memory=Memory(given), cache=cache)) for step in steps], 1))
            assert cache.length == LENGTH
    torch.testing.assert_close(*found, atol=0, rtol=0)


ATTENTION = {"q.proj": ColwiseParallel, "k.proj": ColwiseParallel, "v.proj": ColwiseParallel, "out": RowwiseParallel}
NORMS = ("attn.fn.q.norm", "attn.fn.k.norm")


def parallel(model: Stack, skip: tuple[str, ...] = ()) -> Stack:
    """Heads and hidden units shared out, block by block; key/value heads must be divisible by the number of ranks."""
    mesh = init_device_mesh("cpu", (RANKS,))
    plan = {f"{branch}.fn.{name}": style() for branch in ("attn", "cross") for name, style in ATTENTION.items()}
    plan |= {"mlp.fn.fc1": ColwiseParallel(), "mlp.fn.fc2": RowwiseParallel()}
    # (B, heads, L, d): the heads are what is shared out
    plan |= {name: SequenceParallel(sequence_dim=1, use_local_output=True) for name in NORMS}
    for block in model:
        parallelize_module(block, mesh, {name: style for name, style in plan.items() if name not in skip})
    return model


def trained(model: Stack, x: Tensor, ctx: Ctx) -> Tensor:
    y, notes = model(x, ctx)
    loss(y, notes).backward()
    return y


def equals_one_process_in_parallel(run) -> None:
    model = decoder(run=run)
    x, ctx = batches()[0]
    single = copy.deepcopy(model)
    wanted = trained(single, x, ctx)
    torch.testing.assert_close(trained(parallel(model), x, ctx), wanted, atol=1e-6, rtol=1e-6)
    assert_same_gradients(model, single)
    for each in (model, single):
        torch.optim.SGD(each.parameters(), 1.0).step()
        torch.optim.AdamW(each.parameters(), 1e-2, eps=1e-2).step()
    # the gradient of a norm is still a sum to be taken: the optimizer's arithmetic takes it
    for (name, mine), theirs in zip(model.named_parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(whole(mine), theirs, atol=1e-6, rtol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@check
def tensor_parallel(rank: int) -> None:
    """Grouped queries with rotary positions and q/k norms: each of two ranks holds two query heads and one of keys."""
    equals_one_process_in_parallel(direct)


@check
def tensor_parallel_recomputed(rank: int) -> None:
    equals_one_process_in_parallel(recomputed)


@check
def tensor_parallel_norms_left_alone(rank: int) -> None:
    """A norm of heads that the plan doesn't mention works, but learns from its own heads only.

    Its weight is the same on all ranks while each sees its share of the heads: gradients must be summed over the ranks.
    ``SequenceParallel`` over the dimension of the heads does that; without it the ranks drift apart.
    """
    model = decoder()
    x, ctx = batches()[0]
    single = copy.deepcopy(model)
    wanted = trained(single, x, ctx)
    torch.testing.assert_close(trained(parallel(model, skip=NORMS), x, ctx), wanted, atol=1e-6, rtol=1e-6)
    for mine, theirs in zip(model, single, strict=True):
        for name in NORMS:
            share, complete = mine.get_submodule(name).weight.grad, theirs.get_submodule(name).weight.grad
            assert not torch.allclose(share, complete, atol=1e-6)
            dist.all_reduce(share)
            torch.testing.assert_close(share, complete, atol=1e-6, rtol=1e-5)


@check
def tensor_parallel_decoding(rank: int) -> None:
    """Slots hold the heads of their rank."""
    model = decoder().eval()
    single = copy.deepcopy(model)
    x, ctx = batches()[0]
    with torch.no_grad():
        wanted = single(x, Ctx(memory=ctx.memory)).x
        cache = parallel(model).cache()
        found = [model(piece, Ctx(memory=ctx.memory, cache=cache)).x for piece in x.split([3, 1, 1, 1, 1], 1)]
    torch.testing.assert_close(torch.cat(found, 1), wanted, atol=1e-6, rtol=1e-6)


@check
def tensor_parallel_with_too_few_keys(rank: int) -> None:
    """Key/value heads that the ranks do not divide are refused, as no rank may hold a part of a head.

    The attention is then left out of the plan as a whole. Its k and v alone can't stay whole on every rank: each would
    pass back only what its own queries ask for, and all that comes before would learn from a part. (Several heads that
    stay whole would even meet the wrong queries.)
    """
    x, ctx = batches()[0]
    model = decoder(kv_heads=1)
    single = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="unflatten"):
        parallel(copy.deepcopy(model))(x, ctx)
    wanted = trained(single, x, ctx)
    found = trained(parallel(model, skip=(*NORMS, *(f"attn.fn.{name}" for name in ATTENTION))), x, ctx)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    assert_same_gradients(model, single)


@pytest.mark.parametrize("name", CHECKS)
def test_two_processes_equal_one(name, outcome) -> None:
    assert [found[name] for found in outcome] == [""] * RANKS, "\n".join(found[name] for found in outcome)
