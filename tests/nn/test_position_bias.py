"""Positions that bias pairs (ALiBi, relative tables), and prefixes, against transformers and PyTorch."""

import pytest
import torch
from peer import assert_close, assert_equal_modules, renamed
from torch import nn

from core.nn import (
    ALiBi,
    Block,
    Causal,
    Ctx,
    Full,
    LogBuckets,
    Memory,
    Mlp,
    Prefix,
    RelativeBias,
    Residual,
    RMSNorm,
    Stack,
    Tokens,
    attention,
    cross_attention,
    padded_tokens,
)

T5 = {"q": "q.proj", "k": "k.proj", "v": "v.proj", "o": "out", "relative_attention_bias.weight": "bias.table"}


def t5(**settings):
    module = pytest.importorskip("transformers.models.t5.modeling_t5")
    sizes = {"d_model": 16, "d_kv": 4, "num_heads": 4, "d_ff": 24, "num_layers": 2, "dropout_rate": 0.0}
    sizes["attn_implementation"] = "eager"
    return module, module.T5Config(**sizes, **settings)


@pytest.mark.parametrize("heads", [1, 4, 6])
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_alibi_equals_bloom(heads, padding):
    """Bloom adds slope * key instead of -slope * distance: equal after the softmax."""
    module = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    width, length = 4 * heads, 6
    config = module.BloomConfig(hidden_size=width, n_head=heads, hidden_dropout=0.0, attention_dropout=0.0)
    theirs = module.BloomAttention(config, layer_idx=0)
    ours = attention(width, heads, mask=Causal(), pair_bias=ALiBi(heads))
    real = torch.ones(2, length, dtype=torch.long)
    tokens = Tokens()
    if padding != "none":
        tokens = padded_tokens(torch.tensor([4, 6]), length, left=padding == "left")
        real = (tokens.index >= 0).long()
    alibi = module.build_alibi_tensor(real, heads, torch.float64)
    seen = torch.ones(length, length).tril().bool() & (real[:, None, None] > 0)
    mask = torch.zeros(2, 1, length, length, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float32).min)

    def convert(named):
        out = renamed(named, {"dense": "out"})
        for kind in ("weight", "bias"):
            fused = named[f"query_key_value.{kind}"].unflatten(0, (heads, 3, 4))
            for part, value in zip("qkv", fused.unbind(1), strict=True):
                out[f"{part}.proj.{kind}"] = value.flatten(0, 1)
        return out

    def masked(y):  # what comes out at padding means nothing
        return y * real[..., None]

    assert_equal_modules(
        ours, theirs, convert, [torch.randn(2, length, width)],
        lambda x: masked(ours(x, Ctx(tokens))),
        lambda x: masked(theirs(x, torch.zeros_like(x), alibi, mask)[0]),
        tolerance=1e-5,  # their softmax is float32
    )  # fmt: skip


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("count", "far"), [(32, 128), (8, 20), (16, 400)])
def test_log_buckets_equal_t5(count, far, both_ways):
    module, _ = t5()
    q, k = torch.arange(600)[None], torch.arange(0, 600, 3)[None]
    ahead = k[:, None, :] - q[:, :, None]
    theirs = module.T5Attention._relative_position_bucket(ahead, both_ways, count, far)
    assert torch.equal(LogBuckets(count, far, both_ways)(q, k), theirs)


@pytest.mark.parametrize("decoder", [False, True])
def test_relative_bias_equals_t5(decoder):
    module, config = t5(is_decoder=decoder, relative_attention_num_buckets=8, relative_attention_max_distance=12)
    theirs = module.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    ours = attention(
        16, 4, bias="", scale=1.0, mask=Causal() if decoder else Full(),
        pair_bias=RelativeBias(4, LogBuckets(8, 12, both_ways=not decoder)),
    )  # fmt: skip
    length = 20
    mask = torch.full((1, 1, length, length), float("-inf"), dtype=torch.float64).triu(1) if decoder else None

    def peer(x):
        bias = theirs.compute_bias(length, length)
        return theirs(x, position_bias=bias if mask is None else bias + mask)[0]

    x = torch.randn(2, length, 16)
    assert_equal_modules(ours, theirs, lambda named: renamed(named, T5), [x], ours, peer, tolerance=1e-6)


@pytest.mark.parametrize("heads", [True, [3, 1]])
def test_captured_weights_have_the_bias_of_their_heads_and_the_shared_one(heads):
    module, config = t5(relative_attention_num_buckets=8, relative_attention_max_distance=12)
    theirs = module.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    nn.init.normal_(theirs.relative_attention_bias.weight)
    ours = attention(16, 4, bias="", scale=1.0, pair_bias=RelativeBias(4, LogBuckets(8, 12)))
    ours.load_state_dict(renamed(theirs.state_dict(), T5))
    x, shared, notes = torch.randn(2, 20, 16), torch.randn(2, 4, 20, 20), {}
    with torch.no_grad():
        y = ours(x, Ctx(bias=shared, want=heads, notes=notes))
        wanted, _, weights = theirs(x, position_bias=theirs.compute_bias(20, 20) + shared)
    assert_close(y, wanted, 1e-5)
    assert_close(notes["weights"], weights if heads is True else weights[:, heads], 1e-6)


def t5_decoder(config):
    """A stack whose blocks share one bias, which its owner computes."""

    def block():
        return Block(
            attn=Residual(RMSNorm(16, eps=1e-6), attention(16, 4, bias="", scale=1.0, mask=Causal())),
            cross=Residual(RMSNorm(16, eps=1e-6), cross_attention(16, 4, bias="", scale=1.0)),
            mlp=Residual(RMSNorm(16, eps=1e-6), Mlp(16, 24, act=nn.ReLU(), bias=False)),
        )

    buckets = LogBuckets(config.relative_attention_num_buckets, config.relative_attention_max_distance, both_ways=False)
    return nn.ModuleDict(
        {"blocks": Stack(block() for _ in range(2)), "bias": RelativeBias(4, buckets), "norm": RMSNorm(16, eps=1e-6)}
    )


def t5_decoder_names(named):
    table = {"final_layer_norm": "norm", "block.0.layer.0.SelfAttention.relative_attention_bias.weight": "bias.table"}
    branches = (("attn", "SelfAttention"), ("cross", "EncDecAttention"), ("mlp", "DenseReluDense"))
    parts = {"q": "q.proj", "k": "k.proj", "v": "v.proj", "o": "out", "wi": "fc1", "wo": "fc2"}
    for number in range(2):
        for layer, (ours, theirs) in enumerate(branches):
            table[f"block.{number}.layer.{layer}.layer_norm"] = f"blocks.{number}.{ours}.norm"
            for old, new in parts.items():
                table[f"block.{number}.layer.{layer}.{theirs}.{old}"] = f"blocks.{number}.{ours}.fn.{new}"
    return renamed(named, table)


def test_a_bias_shared_by_all_blocks_equals_t5_and_goes_with_a_cache():
    module, config = t5(is_decoder=True, relative_attention_num_buckets=8, relative_attention_max_distance=12)
    theirs = module.T5Stack(config)
    ours = t5_decoder(config)
    length = 15

    def run(x, memory, cache=None, start=0):
        now, all_ = torch.arange(start, start + x.shape[1])[None], torch.arange(start + x.shape[1])[None]
        ctx = Ctx(bias=ours["bias"](now, all_), memory=Memory(memory), cache=cache)
        return ours["norm"](ours["blocks"](x, ctx).x)

    x, memory = torch.randn(2, length, 16), torch.randn(2, 5, 16)
    assert_equal_modules(
        ours, theirs, t5_decoder_names, [x, memory], run,
        lambda x, memory: theirs(inputs_embeds=x, encoder_hidden_states=memory).last_hidden_state,
        tolerance=1e-5,  # their norm is float32
    )  # fmt: skip
    x, memory = x.double(), memory.double()
    cache = ours["blocks"].cache()
    with torch.no_grad():
        whole = theirs(inputs_embeds=x, encoder_hidden_states=memory).last_hidden_state
        steps = [run(part, memory, cache, start) for start, part in ((0, x[:, :9]), (9, x[:, 9:10]), (10, x[:, 10:]))]
    assert_close(torch.cat(steps, 1), whole, 1e-5)


def by_torch(ours, x, mask):
    """The peer's attention under an explicit mask (B, L, L), True = may attend."""
    heads = 4
    theirs = nn.MultiheadAttention(16, heads, batch_first=True).double()
    weights = ours.state_dict()
    for kind in ("weight", "bias"):
        fused = torch.cat([weights[f"{part}.proj.{kind}"] for part in "qkv"])
        getattr(theirs, f"in_proj_{kind}").data.copy_(fused)
        getattr(theirs.out_proj, kind).data.copy_(weights[f"out.{kind}"])
    return theirs(x, x, x, attn_mask=~mask.repeat_interleave(heads, 0), need_weights=False)[0]


def test_prefix_language_model_equals_an_explicit_mask():
    ours = attention(16, 4, mask=Causal()).double()
    x, prefixes = torch.randn(3, 7, 16, dtype=torch.float64), torch.tensor([0, 3, 7])
    mask = torch.ones(7, 7).tril().bool() | (torch.arange(7) < prefixes[:, None])[:, None]
    rule = Causal() | Prefix(prefixes)
    as_rule = attention(16, 4, mask=rule).double()
    as_rule.load_state_dict(ours.state_dict())
    assert_close(as_rule(x), by_torch(ours, x, mask), 1e-12)
    # tokens of the prefix share an index, and so see each other
    index = (torch.arange(7) - (prefixes[:, None] - 1).clamp(min=0)).clamp(min=0)
    assert_close(ours(x, Ctx(Tokens(index=index))), by_torch(ours, x, mask), 1e-12)
