"""One graph: the blocks compile whole, for every length, with everything that travels beside the activations.

The backend ``aot_eager`` traces forward and backward as the real one does and leaves out code generation, which one
test at the end pays for.
"""

import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import grad
from toys import DIM, HEAD, HEADS, balance, decoder, memory

from core.nn import (
    Block,
    Causal,
    Ctx,
    Memory,
    Prefix,
    Residual,
    Rope,
    Stack,
    Static,
    Tokens,
    attention,
    pack,
    padded_tokens,
    recomputed,
    rope_frequencies,
)
from core.nn.export import register_for_export
from vision.vit import ViT, ViTConfig


class Compiled:
    """A module compiled whole (a graph break is an error), and how many graphs that took."""

    def __init__(self, module: nn.Module, backend: str = "aot_eager") -> None:
        torch._dynamo.reset()
        self._counter = CompileCounterWithBackend(backend)
        self._call = torch.compile(module, fullgraph=True, backend=self._counter)

    def __call__(self, *args):
        return self._call(*args)

    @property
    def graphs(self) -> int:
        return self._counter.frame_count


def assert_close(found, wanted) -> None:
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=2e-6)


def test_every_field_of_the_context_goes_into_one_graph() -> None:
    """Forward and backward, recomputed: padding, memory, an extra mask, a shared bias, notes, captured weights."""
    model = decoder(moe=True, run=recomputed)
    x = torch.randn(2, 9, DIM)
    ctx = Ctx(
        tokens=padded_tokens(torch.tensor([9, 6]), 9),
        memory=memory(2),
        mask=Causal() | Prefix(torch.tensor([3, 2])),
        bias=torch.randn(1, 4, 9, 9),
        want={0: {"hidden": True}, 1: {"attn": [0, 3], "cross": True}},
    )
    compiled = Compiled(model)
    found, wanted = compiled(x, ctx), model(x, ctx)
    assert_close(found, wanted)
    assert set(found.notes[1]) == {"attn", "cross", "mlp"}
    losses = [out.x.square().sum() + balance(out.notes) for out in (found, wanted)]
    torch.testing.assert_close(*(grad(loss, list(model.parameters())) for loss in losses), atol=1e-4, rtol=1e-4)
    assert compiled.graphs == 1


def test_a_marked_length_is_compiled_once() -> None:
    model = decoder(1).eval()
    compiled = Compiled(model)
    for length in (9, 13, 30, 5):
        x, tokens = torch.randn(2, length, DIM), padded_tokens(torch.tensor([length, length - 2]), length)
        for tensor in (x, tokens.index):
            torch._dynamo.mark_dynamic(tensor, 1)
        ctx = Ctx(tokens=tokens, memory=memory(2))
        assert_close(compiled(x, ctx), model(x, ctx))
    assert compiled.graphs == 1


def test_an_unmarked_length_is_compiled_once_more() -> None:
    """The second length makes the dimension dynamic; no later one compiles anything."""
    model = decoder(1).eval()
    compiled = Compiled(model)
    for length in (9, 13, 30, 5):
        x, ctx = torch.randn(2, length, DIM), Ctx(memory=memory(2))
        assert_close(compiled(x, ctx), model(x, ctx))
    assert compiled.graphs == 2


@torch.no_grad()
def in_steps(model, step, x: torch.Tensor, given: Memory, cache) -> list[torch.Tensor]:
    """The prompt, three tokens, through the model itself, what follows token by token through ``step``."""
    found = [model(x[:, :3], Ctx(memory=given, cache=cache)).x]
    found += [step(x[:, i : i + 1], Ctx(cache=cache)).x for i in range(3, x.shape[1])]
    return found


def test_static_slots_decode_in_one_graph() -> None:
    """All steps, of a second sequence with a cache of its own too."""
    model = decoder().eval()
    compiled = Compiled(model)
    for _ in range(2):
        x, given = torch.randn(2, 10, DIM), memory(2)
        wanted = model(x, Ctx(memory=given)).x
        found = in_steps(model, compiled, x, given, model.cache(lambda: Static(12)))
        assert_close(torch.cat(found, 1), wanted)
        assert compiled.graphs == 1


def test_static_slots_settle_with_the_second_token() -> None:
    """Compiled from the start: the first call makes the buffers and the cross keys, the second finds them."""
    model = decoder().eval()
    compiled = Compiled(model)
    x, given = torch.randn(2, 10, DIM), memory(2)
    cache, found, graphs = model.cache(lambda: Static(12)), [], []
    with torch.no_grad():
        wanted = model(x, Ctx(memory=given)).x
        for i in range(x.shape[1]):
            found.append(compiled(x[:, i : i + 1], Ctx(memory=given, cache=cache)).x)
            graphs.append(compiled.graphs)
    assert_close(torch.cat(found, 1), wanted)
    assert graphs == [1] + [2] * 9


def test_packed_rows_compile_dense_and_for_other_lengths_too() -> None:
    """Splitting a row needs its lengths on the host: compiled, the segments become a mask, and one graph serves all."""
    model = decoder(1, kv_heads=4).eval()
    compiled = Compiled(model)
    for lengths in ([3, 5, 4], [6, 2, 4]):
        x, tokens = pack([torch.randn(n, DIM) for n in lengths])
        ctx = Ctx(tokens=tokens, memory=memory(1))
        assert_close(compiled(x, ctx), model(x, ctx))
    assert compiled.graphs == 1


def test_blocks_compiled_one_by_one_share_a_graph() -> None:
    """Regional compilation: start-up does not grow with the depth."""
    model = decoder(3).eval()
    x, ctx = torch.randn(2, 9, DIM, requires_grad=True), Ctx(memory=memory(2))
    wanted = model(x, ctx)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    for block in model:
        block.compile(fullgraph=True, backend=counter)
    assert_close(model(x, ctx), wanted)
    assert counter.frame_count == 1


def test_a_stack_is_exported_for_every_length() -> None:
    """With padding, and cross-attention to a memory of any length."""
    model = decoder(1).eval()

    def inputs(length: int, size: int) -> tuple[torch.Tensor, Ctx]:
        tokens = padded_tokens(torch.tensor([length, length - 2]), length)
        return torch.randn(2, length, DIM), Ctx(tokens=tokens, memory=memory(2, size))

    length, size = torch.export.Dim("length", min=2, max=512), torch.export.Dim("size", min=2, max=512)
    shapes = Ctx(tokens=Tokens(index={1: length}), memory=Memory({1: size}, Tokens()))
    exported = torch.export.export(model, inputs(9, 5), dynamic_shapes=({1: length}, shapes)).module()
    for lengths in ((9, 5), (20, 3), (4, 30)):
        asked = inputs(*lengths)
        assert_close(exported(*asked), model(*asked))


@pytest.mark.parametrize("pool", ["cls", "map"])
def test_a_vit_is_exported_for_every_batch(pool) -> None:
    config = ViTConfig(image=(16, 16), patch=4, dim=16, depth=1, heads=2, classes=3, pool=pool)
    model = ViT(config).eval()
    batch = {"images": {0: torch.export.Dim("batch")}}
    # strict: where a model asks for len(x), only the compiler's tracer keeps the number a symbol
    exported = torch.export.export(model, (torch.randn(2, 3, 16, 16),), dynamic_shapes=batch, strict=True).module()
    images = torch.randn(5, 3, 16, 16)
    assert_close(exported(images), model(images))


class Step(nn.Module):
    """One step of decoding as export wants it: the cache goes in, and the cache comes out."""

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, x, cache):
        return self.stack(x, Ctx(cache=cache)).x, cache


@pytest.mark.parametrize("strict", [False, True])
@torch.no_grad()
def test_a_step_with_static_slots_is_exported(strict) -> None:
    """One program, used for all the steps that follow a prompt."""
    register_for_export()
    model = decoder(1).eval()
    x, given = torch.randn(2, 10, DIM), memory(2)
    wanted = model(x, Ctx(memory=given)).x
    cache = model.cache(lambda: Static(12))
    found = [model(x[:, :3], Ctx(memory=given, cache=cache)).x]
    step = torch.export.export(Step(model), (x[:, 3:4], cache), strict=strict).module()
    assert cache.length == 3  # tracing wrote nothing into it
    for i in range(3, 10):
        y, cache = step(x[:, i : i + 1], cache)
        found.append(y)
    assert_close(torch.cat(found, 1), wanted)
    assert cache.length == 10


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="code generation needs a C++ compiler")
def test_generated_code_decodes_with_static_slots() -> None:
    """The same through the real backend, of self-attention alone: each kernel costs seconds to build."""
    turn = Rope(rope_frequencies(HEAD))
    model = Stack([Block(attn=Residual(nn.Identity(), attention(DIM, HEADS, turn=turn, mask=Causal())))]).eval()
    compiled = Compiled(model, "inductor")
    x = torch.randn(2, 8, DIM)
    with torch.no_grad():
        wanted = model(x).x
        cache = model.cache(lambda: Static(12))
        found = [model(x[:, :3], Ctx(cache=cache)).x]
        found += [compiled(x[:, i : i + 1], Ctx(cache=cache)).x for i in range(3, 8)]
    torch.testing.assert_close(torch.cat(found, 1), wanted, atol=1e-5, rtol=1e-5)
    assert compiled.graphs == 1
