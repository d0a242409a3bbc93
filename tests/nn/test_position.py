"""Positions against transformers, timm, diffusers and openai-whisper."""

import copy

import pytest
import torch
from peer import assert_close, assert_equal_modules, renamed, split_qkv
from torch import nn

from core.nn import (
    ALiBi,
    Block,
    Causal,
    Ctx,
    FixedPositions,
    Full,
    LearnedPositions,
    LogBuckets,
    Memory,
    Mlp,
    Prefix,
    RelativeBias,
    Residual,
    RMSNorm,
    Rope,
    Stack,
    Tokens,
    attention,
    cross_attention,
    grid_coords,
    halves,
    interpolated,
    ntk,
    pack,
    padded_tokens,
    pairs,
    rope_frequencies,
    sinusoids,
    sinusoids_2d,
    unpack,
    yarn,
)

LLAMA = {"q_proj": "q.proj", "k_proj": "k.proj", "v_proj": "v.proj", "o_proj": "out"}
T5 = {"q": "q.proj", "k": "k.proj", "v": "v.proj", "o": "out", "relative_attention_bias.weight": "bias.table"}


def llama(**settings):
    """A peer's configuration and its module."""
    module = pytest.importorskip("transformers.models.llama.modeling_llama")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "attn_implementation": "eager"}
    return module, module.LlamaConfig(**sizes, **settings)


def t5(**settings):
    module = pytest.importorskip("transformers.models.t5.modeling_t5")
    sizes = {"d_model": 16, "d_kv": 4, "num_heads": 4, "d_ff": 24, "num_layers": 2, "dropout_rate": 0.0}
    sizes["attn_implementation"] = "eager"
    return module, module.T5Config(**sizes, **settings)


# --- rotary


def test_rope_equals_llama_at_any_position():
    module, config = llama(max_position_embeddings=40000)
    theirs = module.LlamaRotaryEmbedding(config)
    ours = Rope(rope_frequencies(16))
    assert torch.equal(ours.frequencies, theirs.inv_freq)
    q, coords = torch.randn(2, 3, 7, 16), torch.randint(0, 40000, (2, 7))
    turned, _ = module.apply_rotary_pos_emb(q, q, *theirs(q, coords))
    assert_close(ours(q, coords), turned, 1e-6)


SCALINGS = {
    "linear": ({"factor": 4.0}, lambda: (interpolated(rope_frequencies(16), 4.0), 1.0)),
    "yarn": (
        {"factor": 8.0, "original_max_position_embeddings": 256},
        lambda: yarn(16, 8.0, 256),
    ),
    "yarn with other corners": (
        {"factor": 2.5, "original_max_position_embeddings": 4096, "beta_fast": 16.0, "beta_slow": 2.0, "base": 5e5},
        lambda: yarn(16, 2.5, 4096, 5e5, fast=16.0, slow=2.0),
    ),
    "yarn without stretch": ({"factor": 1.0, "original_max_position_embeddings": 256}, lambda: yarn(16, 1.0, 256)),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_rope_equals_llama(name):
    given, make = SCALINGS[name]
    given = dict(given)
    base = given.pop("base", 10000.0)
    scaling = {"rope_type": name.split()[0], "rope_theta": base, **given}
    module, config = llama(max_position_embeddings=2048, rope_parameters=scaling)
    theirs = module.LlamaRotaryEmbedding(config)
    frequencies, magnitude = make()
    assert_close(frequencies, theirs.inv_freq, 1e-7)
    assert magnitude == pytest.approx(theirs.attention_scaling, abs=1e-12)
    q, coords = torch.randn(2, 3, 7, 16), torch.randint(0, 2048, (2, 7))
    turned, _ = module.apply_rotary_pos_emb(q, q, *theirs(q, coords))
    assert_close(Rope(frequencies, magnitude=magnitude)(q, coords), turned, 1e-3)  # their angles carry their rounding
    assert_close(Rope(theirs.inv_freq, magnitude=magnitude)(q, coords), turned, 1e-6)


def test_ntk_equals_the_dynamic_scaling_of_transformers():
    """Theirs raises the base by what the sequence exceeds the trained length: twice as long, factor 4 -> 5."""
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    _, config = llama(
        max_position_embeddings=512, rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    )
    theirs, magnitude = utils.ROPE_INIT_FUNCTIONS["dynamic"](config, seq_len=1024)
    assert_close(ntk(16, 4.0 * 1024 / 512 - 3.0), theirs, 1e-7)
    assert magnitude == 1.0


def test_channels_beyond_the_frequencies_stay_as_in_gpt_neox():
    module = pytest.importorskip("transformers.models.gpt_neox.modeling_gpt_neox")
    config = module.GPTNeoXConfig(
        hidden_size=32, num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    )  # fmt: skip
    q, coords = torch.randn(2, 3, 7, 16), torch.arange(7)[None]
    cos, sin = module.GPTNeoXRotaryEmbedding(config)(q, coords)
    assert cos.shape[-1] == 4
    turned, _ = module.apply_rotary_pos_emb(q[..., :4], q[..., :4], cos, sin)
    assert_close(Rope(rope_frequencies(4))(q, coords), torch.cat([turned, q[..., 4:]], -1), 1e-6)


def test_pairs_equal_gpt_j():
    module = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    q, length = torch.randn(2, 3, 7, 16), 500
    coords = torch.randint(0, length, (2, 7))
    sin, cos = module.create_sinusoidal_positions(length, 16)[coords].chunk(2, -1)
    turned = module.apply_rotary_pos_emb(q.transpose(1, 2), sin, cos).transpose(1, 2)
    assert_close(Rope(rope_frequencies(16), pairs)(q, coords), turned, 1e-4)  # theirs has frequencies rounded otherwise


@pytest.mark.parametrize("turn", [pairs, halves])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_rope_2d_with_prefix_equals_timm_eva(prefix, turn):
    """Class and register tokens stand nowhere and are not turned; each axis turns half of the channels."""
    eva = pytest.importorskip("timm.models.eva")
    layers = pytest.importorskip("timm.layers")
    dim, heads, grid, half = 32, 2, (3, 5), turn is halves
    theirs = eva.EvaAttention(dim, heads, num_prefix_tokens=prefix, scale_norm=False, rotate_half=half)
    table = layers.RotaryEmbeddingCat(
        dim // heads, in_pixels=False, feat_shape=list(grid), rotate_half=half
    ).get_embed()
    ours = attention(dim, heads, bias="qvo", turn=Rope(rope_frequencies(dim // heads // 2), turn))

    def convert(named):
        named = {**named, "qkv.bias": torch.cat([named["q_bias"], named["q_bias"], named["v_bias"]])}
        found = split_qkv(named, "qkv", "")
        found = {name.removeprefix("."): value for name, value in found.items() if name != ".k.proj.bias"}
        return found | renamed(named, {"proj": "out"})

    coords = torch.cat([torch.full((1, prefix, 2), -1), grid_coords(grid)], 1)
    x = torch.randn(2, prefix + 15, dim)
    assert_equal_modules(
        ours, theirs, convert, [x], lambda x: ours(x, Ctx(Tokens(coords=coords))), lambda x: theirs(x, table),
        tolerance=1e-6,
    )  # fmt: skip


def test_axes_with_frequencies_of_their_own_equal_timm_on_another_grid_than_it_was_trained_on():
    """EVA stretches each axis of a new grid to the one that it knows."""
    layers = pytest.importorskip("timm.layers")
    table = layers.RotaryEmbeddingCat(16, in_pixels=False, feat_shape=[3, 5], ref_feat_shape=[6, 6]).get_embed()
    ours = Rope(torch.stack([rope_frequencies(8) * 6 / 3, rope_frequencies(8) * 6 / 5]), pairs)
    q = torch.randn(2, 3, 15, 16)
    assert_close(ours(q, grid_coords((3, 5))), layers.apply_rot_embed_cat(q, table), 1e-6)


def test_packed_rows_equal_llama_on_each_sequence_alone():
    module, config = llama()
    rotary = module.LlamaRotaryEmbedding(config)
    theirs = module.LlamaAttention(config, layer_idx=0)
    ours = attention(32, 2, kv_heads=1, bias="", turn=Rope(rope_frequencies(16)), mask=Causal())
    ours.load_state_dict(renamed(theirs.state_dict(), LLAMA))
    sequences = [torch.randn(n, 32) for n in (4, 7, 7, 1)]
    row, tokens = pack(sequences)
    with torch.no_grad():
        for given in (tokens, tokens._replace(lengths=None)):  # kernels for packed rows, then a dense mask
            for sequence, out in zip(sequences, unpack(ours(row, Ctx(given)), tokens), strict=True):
                n = len(sequence)
                mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
                alone, _ = theirs(sequence[None], rotary(sequence[None], torch.arange(n)[None]), mask)
                assert_close(out, alone[0], 1e-6)


def cast(dtype):
    return lambda model: model.to(dtype)


def rebuilt_from_meta(model):
    with torch.device("meta"):
        empty = nn.ModuleDict({"rope": Rope(rope_frequencies(16)), "alibi": ALiBi(6)})
    assert empty["rope"].frequencies.is_meta
    assert empty["alibi"].slopes.is_meta
    return empty.to_empty(device="cpu")


@pytest.mark.parametrize(
    "change",
    [cast(torch.bfloat16), cast(torch.float16), cast(torch.float64), copy.deepcopy, rebuilt_from_meta,
     lambda model: copy.deepcopy(model.to("meta")).to_empty(device="cpu")],
    ids=["bfloat16", "float16", "float64", "deepcopy", "built on meta", "moved to meta and back"],
)  # fmt: skip
def test_constants_keep_their_values_through_casts_and_moves(change):
    module, config = llama()
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    model = change(nn.ModuleDict({"rope": Rope(rope_frequencies(16)), "alibi": ALiBi(6)}))
    assert torch.equal(model["rope"].frequencies, module.LlamaRotaryEmbedding(config).inv_freq)
    assert_close(model["alibi"].slopes, bloom._get_alibi_slopes(6, torch.device("cpu")), 1e-7)
    assert not model.state_dict()


def test_rope_in_bfloat16_is_right_far_out():
    """The angle at 30000 needs float32: rounded frequencies would be off by whole turns."""
    module, config = llama(max_position_embeddings=40000)
    q, coords = torch.randn(1, 2, 3, 16), torch.tensor([[29997, 29998, 29999]])
    exact, _ = module.apply_rotary_pos_emb(q, q, *module.LlamaRotaryEmbedding(config)(q, coords))
    ours = Rope(rope_frequencies(16)).to(torch.bfloat16)(q.bfloat16(), coords)
    assert ours.dtype == torch.bfloat16
    assert_close(ours.float(), exact, 0.03)


# --- biases on pairs


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


# --- tables


@pytest.mark.parametrize(("length", "dim"), [(1500, 384), (7, 8)])
def test_sinusoids_equal_whisper(length, dim):
    model = pytest.importorskip("whisper.model")
    assert_close(sinusoids(length, dim), model.sinusoids(length, dim), 0)


@pytest.mark.parametrize("dim", [0, 2, 7])
def test_sinusoids_of_an_impossible_width(dim):
    with pytest.raises(ValueError, match="even width of at least 4"):
        sinusoids(10, dim)


def test_sinusoids_2d_equal_mae():
    mae = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")
    config = mae.ViTMAEConfig(hidden_size=24, image_size=20, patch_size=4, num_attention_heads=2, intermediate_size=8)
    theirs = mae.ViTMAEEmbeddings(config)
    theirs.initialize_weights()
    assert_close(sinusoids_2d(5, 5, 24), theirs.position_embeddings[0, 1:].detach(), 1e-6)


def test_sinusoids_2d_equal_dit():
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    theirs = embeddings.get_2d_sincos_pos_embed(24, 6, base_size=6, output_type="pt")
    assert_close(sinusoids_2d(6, 6, 24), theirs.float(), 1e-6)


def test_sinusoids_2d_equal_timm_on_any_grid():
    """timm has the row's half first."""
    layers = pytest.importorskip("timm.layers")
    theirs = layers.build_sincos2d_pos_embed([3, 5], 24, interleave_sin_cos=True)
    assert_close(sinusoids_2d(3, 5, 24), torch.cat(theirs.chunk(2, -1)[::-1], -1), 1e-6)


def test_sinusoids_2d_of_an_impossible_width():
    with pytest.raises(ValueError, match="divisible by 4"):
        sinusoids_2d(2, 2, 6)


@pytest.mark.parametrize("make", [lambda: LearnedPositions(9, 4), lambda: FixedPositions(torch.randn(9, 4))])
def test_tables_equal_an_embedding(make):
    ours = make()
    theirs = nn.Embedding.from_pretrained(ours.table.detach())
    x, coords = torch.randn(2, 5, 4), torch.randint(0, 9, (2, 5))
    assert torch.equal(ours(x), x + theirs(torch.arange(5)))
    assert torch.equal(ours(x, coords), x + theirs(coords))
    assert list(ours.state_dict()) == ["table"]


def test_tokens_that_stand_nowhere_get_no_position():
    ours, x = LearnedPositions(9, 4), torch.randn(1, 3, 4)
    y = ours(x, torch.tensor([[-1, 0, 8]]))
    assert torch.equal(y[0, 0], x[0, 0])
    assert not torch.equal(y[0, 1], x[0, 1])
    y.sum().backward()
    assert torch.equal(ours.table.grad.sum(1), torch.tensor([4.0, 0, 0, 0, 0, 0, 0, 0, 4.0]))


def test_more_tokens_than_positions_is_an_error():
    ours = LearnedPositions(9, 4)
    with pytest.raises(ValueError, match="10 tokens, but positions for 9 only"):
        ours(torch.zeros(1, 10, 4))
    with pytest.raises(IndexError):
        ours(torch.zeros(1, 2, 4), torch.tensor([[0, 9]]))
