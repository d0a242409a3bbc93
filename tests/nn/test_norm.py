"""What scales, drops and modulates a branch, against timm and diffusers."""

import pytest
import torch
from peer import assert_close, assert_equal_modules, renamed
from torch import nn

from core.nn import (
    Block,
    Ctx,
    DropPath,
    LayerScale,
    Memory,
    Mlp,
    Modulated,
    Modulation,
    Residual,
    attention,
    cross_attention,
)

DIM = 12
X, COND = torch.randn(2, 5, DIM), torch.randn(2, DIM)


def test_layer_scale_equals_timm():
    layers = pytest.importorskip("timm.layers")
    ours, theirs = LayerScale(DIM, 1e-4), layers.LayerScale(DIM, 1e-4)
    assert torch.equal(ours.gamma, theirs.gamma)
    assert_equal_modules(ours, theirs, dict, [X], ours, theirs)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
def test_drop_path_equals_timm_from_the_same_seed(rate):
    layers = pytest.importorskip("timm.layers")
    found = []
    for module in (DropPath(rate), layers.DropPath(rate)):
        x = torch.ones(64, 3, 2, requires_grad=True)
        torch.manual_seed(5)
        y = module(x)
        y.sum().backward()
        found.append((y, x.grad))
        assert torch.equal(module.eval()(x), x)
    assert_close(*found, 0)


def test_a_dropped_row_is_dropped_as_a_whole_and_the_mean_is_kept():
    y = DropPath(0.25)(torch.ones(4000, 3, 2))
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(y.amin((1, 2)), y.amax((1, 2)))
    assert y.mean().item() == pytest.approx(1, abs=0.03)


def halves_of(named, theirs, first, second):
    """Six modulations made by one layer: three for attention, three for the feed-forward branch."""
    out = {}
    for kind in ("weight", "bias"):
        out[f"{first}.{kind}"], out[f"{second}.{kind}"] = named[f"{theirs}.{kind}"].chunk(2)
    return out


def test_modulation_equals_diffusers():
    normalization = pytest.importorskip("diffusers.models.normalization")
    theirs = normalization.AdaLayerNormZero(DIM)
    ours = nn.ModuleDict({"attn": Modulation(DIM), "mlp": Modulation(DIM)})

    def peer(x, cond):
        y, gate, shift, scale, gate_mlp = theirs(x, emb=cond)
        return y, gate[:, None], theirs.norm(x) * (1 + scale[:, None]) + shift[:, None], gate_mlp[:, None]

    assert_equal_modules(
        ours, theirs, lambda named: halves_of(named, "linear", "attn.proj", "mlp.proj"), [X, COND],
        lambda x, cond: (*ours["attn"](x, cond), *ours["mlp"](x, cond)), peer,
    )  # fmt: skip


def test_a_new_modulated_block_is_the_identity():
    block = Block(attn=Modulated(Modulation(DIM), attention(DIM, 2)), mlp=Modulated(Modulation(DIM), Mlp(DIM)))
    assert torch.equal(block(X, Ctx(cond=COND)).x, X)


class Given(nn.Module):
    """Stands where the peer would embed time step and class."""

    def forward(self, cond, labels, hidden_dtype):
        return cond


ATTENTION = {"to_q": "q.proj", "to_k": "k.proj", "to_v": "v.proj", "to_out.0": "out"}
FEED_FORWARD = {"net.0.proj": "fc1", "net.2": "fc2"}


def names(*branches):
    return {
        f"{theirs}.{old}": f"{ours}.fn.{new}"
        for theirs, ours in branches
        for old, new in (FEED_FORWARD if theirs == "ff" else ATTENTION).items()
    }


def test_dit_block_equals_diffusers():
    peer = pytest.importorskip("diffusers.models.attention")
    theirs = peer.BasicTransformerBlock(
        DIM, 2, DIM // 2, activation_fn="gelu-approximate", num_embeds_ada_norm=3, attention_bias=True,
        norm_elementwise_affine=False, norm_type="ada_norm_zero", norm_eps=1e-6,
    )  # fmt: skip
    theirs.norm1.emb = Given()
    ours = Block(
        attn=Modulated(Modulation(DIM), attention(DIM, 2)),
        mlp=Modulated(Modulation(DIM), Mlp(DIM, act=nn.GELU("tanh"))),
    )

    def convert(named):
        found = renamed(named, names(("attn1", "attn"), ("ff", "mlp")))
        return found | halves_of(named, "norm1.linear", "attn.modulation.proj", "mlp.modulation.proj")

    assert_equal_modules(
        ours, theirs, convert, [X, COND], lambda x, cond: ours(x, Ctx(cond=cond)).x,
        lambda x, cond: theirs(x, timestep=cond, class_labels=cond),
    )  # fmt: skip


def test_modulated_and_plain_branches_mix_in_one_block():
    """Cross-attention without modulation between two modulated branches, as diffusers has it."""
    peer = pytest.importorskip("diffusers.models.attention")
    theirs = peer.BasicTransformerBlock(
        DIM, 2, DIM // 2, cross_attention_dim=7, activation_fn="gelu", num_embeds_ada_norm=3,
        norm_elementwise_affine=True, norm_type="ada_norm_zero", norm_eps=1e-6,
    )  # fmt: skip
    theirs.norm1.emb = Given()
    theirs.norm2, theirs.norm3 = nn.LayerNorm(DIM, eps=1e-6), nn.LayerNorm(DIM, eps=1e-6)
    ours = Block(
        attn=Modulated(Modulation(DIM), attention(DIM, 2, bias="o")),
        cross=Residual(nn.LayerNorm(DIM, eps=1e-6), cross_attention(DIM, 2, memory_dim=7, bias="o")),
        mlp=Modulated(Modulation(DIM, norm=nn.LayerNorm(DIM, eps=1e-6)), Mlp(DIM)),
    )

    def convert(named):
        table = names(("attn1", "attn"), ("attn2", "cross"), ("ff", "mlp"))
        found = renamed(named, table | {"norm2": "cross.norm", "norm3": "mlp.modulation.norm"})
        return found | halves_of(named, "norm1.linear", "attn.modulation.proj", "mlp.modulation.proj")

    assert_equal_modules(
        ours, theirs, convert, [X, COND, torch.randn(2, 4, 7)],
        lambda x, cond, memory: ours(x, Ctx(cond=cond, memory=Memory(memory))).x,
        lambda x, cond, memory: theirs(x, timestep=cond, class_labels=cond, encoder_hidden_states=memory),
    )  # fmt: skip
