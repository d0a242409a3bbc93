"""One table of relative positions for all blocks, worked out once a call (T5), with and without a cache.

``ctx.bias`` carries it. Whoever builds it must know the positions of the keys that a slot will return: all before and
the new ones for ``Growing``, the whole buffer for ``Static``. A ``Ring`` forgets in its own way: there the table
belongs into each attention (``pair_bias=``), which is given the slot's own key positions.

The peer is transformers' T5, which works out its softmax and the variance of its norms in float32: hence 1e-6.
"""

import pytest
import torch
from torch import Tensor, nn

from core.nn import (
    Block,
    Causal,
    Ctx,
    Growing,
    LogBuckets,
    Memory,
    Mlp,
    RelativeBias,
    Residual,
    RMSNorm,
    Stack,
    Static,
    attention,
    cross_attention,
    padded_tokens,
    recomputed,
)

DIM, HEADS, HEAD, HIDDEN, LAYERS, BUCKETS, FAR = 32, 4, 8, 48, 2, 8, 10
ROWS, LENGTH, SOURCE = 2, 12, 5


class Decoder(nn.Module):
    """T5's decoder (arXiv:1910.10683): scores are not scaled, layers have no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = RelativeBias(HEADS, LogBuckets(BUCKETS, FAR, both_ways=False))

        def block() -> Block:
            mine = attention(DIM, HEADS, head_dim=HEAD, bias="", mask=Causal(), scale=1.0)
            theirs = cross_attention(DIM, HEADS, head_dim=HEAD, bias="", scale=1.0)
            return Block(
                attn=Residual(RMSNorm(DIM, eps=1e-6), mine),
                cross=Residual(RMSNorm(DIM, eps=1e-6), theirs),
                mlp=Residual(RMSNorm(DIM, eps=1e-6), Mlp(DIM, HIDDEN, act=nn.ReLU(), bias=False)),
            )

        self.blocks = Stack(block() for _ in range(LAYERS))
        self.norm = RMSNorm(DIM, eps=1e-6)

    def forward(self, x: Tensor, ctx: Ctx, keys: int | None = None) -> Tensor:
        """``keys``: how many key slots there are, by default all tokens so far."""
        start = 0 if ctx.cache is None else ctx.cache.length
        end = start + x.shape[1]
        asked = torch.arange(x.shape[1]) + start
        bias = self.bias(asked[None], torch.arange(end if keys is None else keys)[None])
        return self.norm(self.blocks(x, ctx._replace(bias=bias)).x)


NAMES = {
    "layer.0.layer_norm": "attn.norm",
    "layer.0.SelfAttention.q": "attn.fn.q.proj",
    "layer.0.SelfAttention.k": "attn.fn.k.proj",
    "layer.0.SelfAttention.v": "attn.fn.v.proj",
    "layer.0.SelfAttention.o": "attn.fn.out",
    "layer.1.layer_norm": "cross.norm",
    "layer.1.EncDecAttention.q": "cross.fn.q.proj",
    "layer.1.EncDecAttention.k": "cross.fn.k.proj",
    "layer.1.EncDecAttention.v": "cross.fn.v.proj",
    "layer.1.EncDecAttention.o": "cross.fn.out",
    "layer.2.layer_norm": "mlp.norm",
    "layer.2.DenseReluDense.wi": "mlp.fn.fc1",
    "layer.2.DenseReluDense.wo": "mlp.fn.fc2",
}


def theirs_and_ours() -> tuple[nn.Module, Decoder]:
    """The decoder of transformers with random weights, and ours with the same."""
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Stack

    config = T5Config(
        d_model=DIM,
        d_kv=HEAD,
        d_ff=HIDDEN,
        num_layers=LAYERS,
        num_heads=HEADS,
        relative_attention_num_buckets=BUCKETS,
        relative_attention_max_distance=FAR,
        dropout_rate=0.0,
        vocab_size=10,
    )
    config.is_decoder, config.use_cache = True, False
    theirs, ours = T5Stack(config).double().eval(), Decoder().double().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    state = {}
    for name, tensor in theirs.state_dict().items():
        match name.split("."):
            case ["block", number, *rest] if "relative_attention_bias" not in rest:
                state[f"blocks.{number}.{NAMES['.'.join(rest[:-1])]}.weight"] = tensor
            case ["block", *_]:
                state["bias.table"] = tensor
            case ["final_layer_norm", _]:
                state["norm.weight"] = tensor
    ours.load_state_dict(state)
    return theirs, ours


def inputs() -> tuple[Tensor, Memory]:
    return torch.randn(ROWS, LENGTH, DIM).double(), Memory(torch.randn(ROWS, SOURCE, DIM).double())


def test_equals_t5() -> None:
    """Outputs, and the gradient of the one table, which all blocks add to."""
    theirs, ours = theirs_and_ours()
    x, given = inputs()
    wanted = theirs(inputs_embeds=x, encoder_hidden_states=given.x).last_hidden_state
    found = ours(x, Ctx(memory=given))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    wanted.square().sum().backward()
    table = theirs.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    for run in (None, recomputed):
        ours.zero_grad()
        ours.blocks.run = run or ours.blocks.run
        ours(x, Ctx(memory=given)).square().sum().backward()
        torch.testing.assert_close(ours.bias.table.grad, table.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [[1] * LENGTH, [5, 1, 1, 3, 1, 1]], ids=str)
@pytest.mark.parametrize("size", [None, LENGTH + 3], ids=["growing", "static"])
@torch.no_grad()
def test_decoding_with_a_cache_equals_t5_without(size, steps) -> None:
    theirs, ours = theirs_and_ours()
    x, given = inputs()
    wanted = theirs(inputs_embeds=x, encoder_hidden_states=given.x).last_hidden_state
    cache = ours.blocks.cache(Growing if size is None else lambda: Static(size))
    found = [ours(piece, Ctx(memory=given, cache=cache), size) for piece in x.split(steps, 1)]
    torch.testing.assert_close(torch.cat(found, 1), wanted, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_rows_padded_on_the_left_decode_as_they_do_alone() -> None:
    """Distances do not see where a row starts: one bias serves rows of different lengths."""
    _, ours = theirs_and_ours()
    x, given = inputs()
    lengths = torch.tensor([LENGTH, LENGTH - 4])
    tokens = padded_tokens(lengths, LENGTH, left=True)
    cache, found = ours.blocks.cache(), []
    for i, piece in enumerate(x.split([6] + [1] * (LENGTH - 6), 1)):
        span = slice(0, 6) if i == 0 else slice(5 + i, 6 + i)
        step = tokens._replace(index=tokens.index[:, span])
        found.append(ours(piece, Ctx(tokens=step, memory=given, cache=cache)))
    alone = ours(x[1:, 4:], Ctx(memory=Memory(given.x[1:])))
    torch.testing.assert_close(torch.cat(found, 1)[1:, 4:], alone, atol=1e-10, rtol=1e-10)
