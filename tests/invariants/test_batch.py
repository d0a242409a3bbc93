"""Alone, padded, packed or batched: a sequence gets the same result, for every kind of block."""

import pytest
import torch

from core.nn import (
    Block,
    Causal,
    Ctx,
    LayerNorm,
    Memory,
    Mlp,
    Modulated,
    Modulation,
    PostNorm,
    Residual,
    RMSNorm,
    Rope,
    Stack,
    SwiGLU,
    Window,
    attention,
    cross_attention,
    pack,
    packed_tokens,
    padded_tokens,
    rope_frequencies,
    unpack,
)

DIM, HEADS = 32, 4
LENGTHS = [5, 5, 2, 9]


def vit_block():
    return Block(attn=Residual(LayerNorm(DIM), attention(DIM, HEADS)), mlp=Residual(LayerNorm(DIM), Mlp(DIM)))


def bert_block():
    return Block(attn=PostNorm(LayerNorm(DIM), attention(DIM, HEADS)), mlp=PostNorm(LayerNorm(DIM), Mlp(DIM)))


def llama_block():
    turn = Rope(rope_frequencies(DIM // HEADS))
    attn = attention(DIM, HEADS, kv_heads=2, bias="", norm=RMSNorm, turn=turn, mask=Causal())
    return Block(attn=Residual(RMSNorm(DIM), attn), mlp=Residual(RMSNorm(DIM), SwiGLU(DIM, 48)))


def mistral_block():
    attn = attention(DIM, HEADS, turn=Rope(rope_frequencies(DIM // HEADS)), mask=Causal() & Window(3, sinks=1))
    return Block(attn=Residual(RMSNorm(DIM), attn), mlp=Residual(RMSNorm(DIM), SwiGLU(DIM, 48)))


def whisper_block():
    return Block(
        attn=Residual(LayerNorm(DIM), attention(DIM, HEADS, bias="qvo", mask=Causal())),
        cross=Residual(LayerNorm(DIM), cross_attention(DIM, HEADS, bias="qvo")),
        mlp=Residual(LayerNorm(DIM), Mlp(DIM)),
    )


def dit_block():
    block = Block(attn=Modulated(Modulation(DIM), attention(DIM, HEADS)), mlp=Modulated(Modulation(DIM), Mlp(DIM)))
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # it starts as the identity, which would prove nothing
    return block


BLOCKS = [vit_block, bert_block, llama_block, mistral_block, whisper_block, dit_block]


@pytest.fixture(params=BLOCKS, ids=lambda make: make.__name__)
def case(request):
    model = Stack(request.param() for _ in range(2)).double().eval()
    cond = torch.randn(1, DIM).double()
    sequences = [torch.randn(n, DIM).double() for n in LENGTHS]
    memories = [torch.randn(n + 1, DIM).double() for n in LENGTHS]
    alone = [
        model(x[None], Ctx(memory=Memory(m[None]), cond=cond)).x[0] for x, m in zip(sequences, memories, strict=True)
    ]
    return model, cond, sequences, memories, alone


def assert_same(ours, alone):
    for a, b in zip(ours, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("left", [False, True])
def test_padded_equals_alone(case, left):
    model, cond, sequences, memories, alone = case

    def padded(parts, left):
        size = max(len(p) for p in parts)
        x = torch.full((len(parts), size, DIM), 9.0).double()  # what is in the padding must not matter
        for row, p in enumerate(parts):
            start = size - len(p) if left else 0
            x[row, start : start + len(p)] = p
        return x, padded_tokens(torch.tensor([len(p) for p in parts]), size, left=left)

    x, tokens = padded(sequences, left)
    ctx = Ctx(tokens=tokens, memory=Memory(*padded(memories, False)), cond=cond)
    y = model(x, ctx).x
    size = x.shape[1]
    assert_same([y[r, size - n :] if left else y[r, :n] for r, n in enumerate(LENGTHS)], alone)


@pytest.mark.parametrize("lengths", ["known to the host", "on the device only"])
def test_packed_equals_alone(case, lengths):
    model, cond, sequences, memories, alone = case
    x, tokens = pack(sequences)
    memory = Memory(*pack(memories))
    if lengths == "on the device only":
        bare = tokens._replace(lengths=None)
        ctx = Ctx(tokens=bare, memory=memory._replace(tokens=memory.tokens._replace(lengths=None)), cond=cond)
    else:
        ctx = Ctx(tokens=tokens, memory=memory, cond=cond)
    assert_same(unpack(model(x, ctx).x, tokens), alone)


def test_batched_equals_alone(case):
    model, cond, sequences, memories, alone = case
    x, m = torch.stack(sequences[:2]), torch.stack(memories[:2])
    assert_same(model(x, Ctx(memory=Memory(m), cond=cond)).x, alone[:2])


def test_packed_gradients_equal_the_sum_of_those_alone(case):
    model, cond, sequences, memories, alone = case
    x, tokens = pack(sequences)
    packed = model(x, Ctx(tokens=tokens, memory=Memory(*pack(memories)), cond=cond)).x
    parameters = list(model.parameters())
    apart = torch.autograd.grad(sum((y**2).sum() for y in alone), parameters)
    together = torch.autograd.grad((packed**2).sum(), parameters)
    assert_same(together, apart)


def test_unpacking_needs_the_lengths():
    with pytest.raises(ValueError, match="carry no lengths"):
        unpack(torch.zeros(1, 3, 4), packed_tokens([3])._replace(lengths=None))
