"""Feed-forward branches against timm, diffusers and transformers."""

import pytest
import torch
from peer import assert_equal_modules, renamed
from torch import nn

from core.nn import GEGLU, GatedMlp, LayerNorm, Mlp, SwiGLU

X = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))


def compare(ours, theirs, convert):
    assert_equal_modules(ours, theirs, convert, [X], ours, theirs)


def names(table):
    return lambda named: renamed(named, table)


@pytest.mark.parametrize("bias", [True, False])
def test_mlp_equals_timm(bias):
    layers = pytest.importorskip("timm.layers")
    theirs = layers.Mlp(12, 20, bias=bias)
    compare(Mlp(12, 20, bias=bias), theirs, names({"fc1": "fc1", "fc2": "fc2"}))


def test_mlp_is_four_times_as_wide_inside_by_default():
    layers = pytest.importorskip("timm.layers")
    theirs = layers.Mlp(12, 48, act_layer=lambda: nn.GELU(approximate="tanh"))
    compare(Mlp(12, act=nn.GELU("tanh")), theirs, names({"fc1": "fc1", "fc2": "fc2"}))


@pytest.mark.parametrize("norm", [None, LayerNorm])
def test_swiglu_equals_timm(norm):
    layers = pytest.importorskip("timm.layers")
    theirs = layers.SwiGLU(12, 20, norm_layer=norm)
    ours = SwiGLU(12, 20, bias=True, norm=norm(20) if norm else None)
    compare(ours, theirs, names({"fc1_g": "gate", "fc1_x": "up", "norm": "norm", "fc2": "down"}))


def test_swiglu_equals_the_fused_one_of_dinov2():
    layers = pytest.importorskip("timm.layers")

    def convert(named):
        out = renamed(named, {"fc2": "down"})
        for kind in ("weight", "bias"):
            out[f"gate.{kind}"], out[f"up.{kind}"] = named[f"fc1.{kind}"].chunk(2)
        return out

    compare(SwiGLU(12, 20, bias=True), layers.SwiGLUPacked(12, 40), convert)


def test_swiglu_equals_llama():
    module = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = module.LlamaConfig(hidden_size=12, intermediate_size=20, num_attention_heads=2)
    table = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
    compare(SwiGLU(12, 20), module.LlamaMLP(config), names(table))


def test_geglu_equals_diffusers():
    attention = pytest.importorskip("diffusers.models.attention")

    def convert(named):
        out = renamed(named, {"net.2": "down"})
        for kind in ("weight", "bias"):
            out[f"up.{kind}"], out[f"gate.{kind}"] = named[f"net.0.proj.{kind}"].chunk(2)
        return out

    compare(GEGLU(12, 20, bias=True), attention.FeedForward(12, inner_dim=20, activation_fn="geglu"), convert)


def test_gated_mlp_equals_t5():
    module = pytest.importorskip("transformers.models.t5.modeling_t5")
    config = module.T5Config(d_model=12, d_ff=20, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    theirs = module.T5DenseGatedActDense(config)
    compare(GatedMlp(12, 20, act=nn.GELU("tanh")), theirs, names({"wi_0": "gate", "wi_1": "up", "wo": "down"}))
