"""Streams that meet in one attention, against the MMDiT blocks of diffusers."""

import pytest
import torch
from peer import assert_close, assert_equal_modules, renamed
from torch import nn

from core.nn import (
    Attention,
    Block,
    Ctx,
    Each,
    Heads,
    Joint,
    LayerNorm,
    Mlp,
    Modulated,
    Modulation,
    RMSNorm,
    Rope,
    Streams,
    Tokens,
    attention,
    grid_coords,
    padded_tokens,
    pairs,
    rope_frequencies,
)

DIM, HEADS = 16, 2
IMAGE, TEXT, COND = torch.randn(2, 9, DIM), torch.randn(2, 5, DIM), torch.randn(2, DIM)


def feed_forward():
    return Modulated(Modulation(DIM), Mlp(DIM, act=nn.GELU("tanh")))


def block(norm=None, turn=None):
    parts = [attention(DIM, HEADS, norm=norm, turn=turn) for _ in range(2)]
    return Block(
        attn=Streams([Modulation(DIM), Modulation(DIM)], Joint(parts)),
        mlp=Each([feed_forward(), feed_forward()]),
    )


NAMES = {
    "attn.to_q": "attn.fn.parts.0.q.proj", "attn.to_k": "attn.fn.parts.0.k.proj",
    "attn.to_v": "attn.fn.parts.0.v.proj", "attn.to_out.0": "attn.fn.parts.0.out",
    "attn.norm_q": "attn.fn.parts.0.q.norm", "attn.norm_k": "attn.fn.parts.0.k.norm",
    "attn.add_q_proj": "attn.fn.parts.1.q.proj", "attn.add_k_proj": "attn.fn.parts.1.k.proj",
    "attn.add_v_proj": "attn.fn.parts.1.v.proj", "attn.to_add_out": "attn.fn.parts.1.out",
    "attn.norm_added_q": "attn.fn.parts.1.q.norm", "attn.norm_added_k": "attn.fn.parts.1.k.norm",
    "ff.net.0.proj": "mlp.branches.0.fn.fc1", "ff.net.2": "mlp.branches.0.fn.fc2",
    "ff_context.net.0.proj": "mlp.branches.1.fn.fc1", "ff_context.net.2": "mlp.branches.1.fn.fc2",
}  # fmt: skip


def convert(named):
    found = renamed(named, NAMES)
    for number, layer in enumerate(("norm1", "norm1_context")):
        for kind in ("weight", "bias"):
            first, second = named[f"{layer}.linear.{kind}"].chunk(2)
            found[f"attn.modulations.{number}.proj.{kind}"] = first
            found[f"mlp.branches.{number}.modulation.proj.{kind}"] = second
    return found


def peer_block(**settings):
    attention_module = pytest.importorskip("diffusers.models.attention")
    return attention_module.JointTransformerBlock(DIM, HEADS, DIM // HEADS, **settings)


def swapped(pair):
    """diffusers returns the text first."""
    return pair[1], pair[0]


def rms_norm(dim):
    return RMSNorm(dim, eps=1e-6)


@pytest.mark.parametrize(("qk_norm", "norm"), [(None, None), ("rms_norm", rms_norm)])
def test_two_streams_equal_diffusers(qk_norm, norm):
    theirs, ours = peer_block(qk_norm=qk_norm), block(norm)
    assert_equal_modules(
        ours, theirs, convert, [IMAGE, TEXT, COND],
        lambda image, text, cond: ours((image, text), Ctx(cond=cond)).x,
        lambda image, text, cond: swapped(theirs(image, text, cond)),
        tolerance=1e-11 if norm is None else 1e-5,  # their RMSNorm takes the mean in float32
    )  # fmt: skip


class ShiftScale(nn.Module):
    """The modulation of a stream that ends in this block: no gate of its own, nothing is added to it any more."""

    def __init__(self, dim):
        super().__init__()
        self.norm = LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.act = nn.SiLU()
        self.proj = nn.Linear(dim, 2 * dim)

    def forward(self, x, cond):
        shift, scale = self.proj(self.act(cond)).unsqueeze(1).chunk(2, -1)
        return self.norm(x) * (1 + scale) + shift, x.new_zeros(())


def test_a_stream_that_is_only_read_equals_diffusers_context_pre_only():
    """The last block of SD3: another modulation, no output projection, no feed-forward branch for the text."""
    theirs = peer_block(context_pre_only=True)

    def heads():
        return Heads(DIM, HEADS, DIM // HEADS)

    read = Attention(heads(), heads(), heads(), nn.Identity())
    ours = Block(
        attn=Streams([Modulation(DIM), ShiftScale(DIM)], Joint([attention(DIM, HEADS), read])),
        mlp=Each([feed_forward(), None]),
    )

    def converted(named):
        found = renamed(named, NAMES)
        for kind in ("weight", "bias"):
            first, second = named[f"norm1.linear.{kind}"].chunk(2)
            found[f"attn.modulations.0.proj.{kind}"] = first
            found[f"mlp.branches.0.modulation.proj.{kind}"] = second
            scale, shift = named[f"norm1_context.linear.{kind}"].chunk(2)
            found[f"attn.modulations.1.proj.{kind}"] = torch.cat([shift, scale])
        return found

    def run(image, text, cond):
        image, same = ours((image, text), Ctx(cond=cond)).x
        assert torch.equal(same, text)
        return image

    assert_equal_modules(
        ours, theirs, converted, [IMAGE, TEXT, COND], run, lambda image, text, cond: theirs(image, text, cond)[1]
    )


@pytest.mark.parametrize("left", [False, True])
def test_padding_in_one_stream_equals_the_peer_without_it(left):
    theirs, ours = peer_block().double(), block().double()
    nn.init.normal_(theirs.norm1.linear.weight, std=0.3)
    nn.init.normal_(theirs.norm1_context.linear.weight, std=0.3)
    ours.load_state_dict(convert(theirs.state_dict()))
    image, text, cond = IMAGE.double(), TEXT.double(), COND.double()
    tokens = padded_tokens(torch.tensor([3, 5]), 5, left=left)
    with torch.no_grad():
        found = ours((image, text), Ctx(cond=cond, tokens=(Tokens(), tokens))).x
        for row in range(2):
            real = tokens.index[row] >= 0
            alone = theirs(image[row : row + 1], text[row : row + 1, real], cond[row : row + 1])
            assert_close((found[0][row], found[1][row, real]), (alone[1][0], alone[0][0]), 1e-12)


def test_rotary_streams_equal_flux():
    """The text stands nowhere, the image on a grid; all heads are normalised before they are turned."""
    flux = pytest.importorskip("diffusers.models.transformers.transformer_flux")
    theirs = flux.FluxTransformerBlock(DIM, HEADS, DIM // HEADS)
    ours = block(rms_norm, Rope(rope_frequencies(4), pairs))
    places = torch.cat([torch.zeros(5, 2), grid_coords((3, 3))[0]])
    rotary = flux.FluxPosEmbed(10000, [4, 4])(places)
    coords = (Tokens(coords=torch.full((1, 5, 2), -1)), Tokens(coords=grid_coords((3, 3))))
    assert_equal_modules(
        ours, theirs, convert, [IMAGE, TEXT, COND],
        lambda image, text, cond: ours((image, text), Ctx(cond=cond, tokens=coords[::-1])).x,
        lambda image, text, cond: swapped(theirs(image, text, cond, image_rotary_emb=rotary)),
        tolerance=1e-5,  # their norms and rotations are float32
    )  # fmt: skip


def test_one_set_of_tokens_for_several_streams_is_an_error():
    with pytest.raises(ValueError, match="one Tokens for each of 2 streams"):
        block()((IMAGE, TEXT), Ctx(cond=COND, tokens=padded_tokens(torch.tensor([3, 5]), 5)))
