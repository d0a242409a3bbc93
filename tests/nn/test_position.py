"""Positions against transformers, timm, diffusers and openai-whisper."""

import copy

import pytest
import torch
from peer import assert_close, assert_equal_modules, renamed, split_qkv
from torch import nn

from core.nn import (
    ALiBi,
    Causal,
    Ctx,
    FixedPositions,
    LearnedPositions,
    Rope,
    Tokens,
    attention,
    grid_coords,
    halves,
    interpolated,
    ntk,
    pack,
    pairs,
    rope_frequencies,
    sinusoids,
    sinusoids_2d,
    unpack,
    yarn,
)

LLAMA = {"q_proj": "q.proj", "k_proj": "k.proj", "v_proj": "v.proj", "o_proj": "out"}


def llama(**settings):
    """A peer's configuration and its module."""
    module = pytest.importorskip("transformers.models.llama.modeling_llama")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "attn_implementation": "eager"}
    return module, module.LlamaConfig(**sizes, **settings)


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
