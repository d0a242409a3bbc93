"""Patches against PyTorch's convolutions, MAE's targets and DiT's outputs."""

import pytest
import torch
from peer import assert_equal_modules
from torch import nn

from core.nn import PatchEmbed, grid_coords, patch_grid, patchify, unpatchify

CASES = {
    "1D": (nn.Conv1d, (12,), (3,)),
    "2D": (nn.Conv2d, (6, 8), (3, 2)),
    "3D": (nn.Conv3d, (4, 6, 4), (2, 3, 2)),
}
ORDERS = ["channels first", "channels last"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_patch_embed_equals_a_convolution_with_stride_kernel(case, bias):
    conv, size, patch = CASES[case]
    theirs = conv(3, 10, patch, stride=patch, bias=bias)
    ours = PatchEmbed(3, 10, patch, bias=bias)

    def convert(named):
        return {f"proj.{name}": value.flatten(1) if name == "weight" else value for name, value in named.items()}

    x = torch.randn(2, 3, *size)
    assert_equal_modules(ours, theirs, convert, [x], ours, lambda x: theirs(x).flatten(2).transpose(1, 2))
    assert ours.grid(x) == tuple(theirs(x.double()).shape[2:])


def test_patch_embed_equals_timm_in_its_own_layout():
    layers = pytest.importorskip("timm.layers")
    theirs = layers.PatchEmbed(img_size=(8, 12), patch_size=4, in_chans=3, embed_dim=10)
    ours = PatchEmbed(3, 10, (4, 4))

    def convert(named):
        return {"proj.weight": named["proj.weight"].flatten(1), "proj.bias": named["proj.bias"]}

    assert_equal_modules(ours, theirs, convert, [torch.randn(2, 3, 8, 12)], ours, theirs)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CASES)
def test_unpatchify_undoes_patchify(case, order):
    _, size, patch = CASES[case]
    x = torch.randn(2, 3, *size)
    grid = patch_grid(size, patch)
    assert torch.equal(unpatchify(patchify(x, patch, order), patch, grid, order), x)


@pytest.mark.parametrize("case", CASES)
def test_patches_are_what_slicing_cuts_out(case):
    _, size, patch = CASES[case]
    x = torch.randn(2, 3, *size)
    first, last = patchify(x, patch), patchify(x, patch, "channels last")
    for number, corner in enumerate(grid_coords(patch_grid(size, patch))[0].tolist()):
        window = tuple(slice(c * p, (c + 1) * p) for c, p in zip(corner, patch, strict=True))
        piece = x[(slice(None), slice(None), *window)]
        assert torch.equal(first[:, number], piece.flatten(1))
        assert torch.equal(last[:, number], piece.movedim(1, -1).flatten(1))


def test_channels_last_is_the_order_of_mae_targets():
    mae = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")
    config = pytest.importorskip("transformers").ViTMAEConfig(
        image_size=12, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=8,
    )  # fmt: skip
    theirs = mae.ViTMAEForPreTraining(config)
    x = torch.randn(2, 3, 12, 12)
    patches = theirs.patchify(x)
    assert torch.equal(patchify(x, (4, 4), "channels last"), patches)
    assert torch.equal(unpatchify(patches, (4, 4), (3, 3), "channels last"), theirs.unpatchify(patches))


def test_channels_last_is_the_order_of_dit_outputs():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=3, out_channels=5, num_layers=1, sample_size=6,
        patch_size=2, num_embeds_ada_norm=4,
    ).eval()  # fmt: skip
    seen = {}
    theirs.proj_out_2.register_forward_hook(lambda module, args, out: seen.update(tokens=out))
    with torch.no_grad():
        nn.init.normal_(theirs.proj_out_2.weight)
        image = theirs(torch.randn(2, 3, 6, 6), torch.tensor([1, 2]), torch.tensor([0, 3])).sample
    assert torch.equal(unpatchify(seen["tokens"], (2, 2), (3, 3), "channels last"), image)


@pytest.mark.parametrize("size", [(7, 8), (8, 0), (8,)])
def test_a_patch_that_does_not_fit_is_an_error(size):
    with pytest.raises(ValueError, match=r"patches of \(4, 4\) do not divide an input of"):
        patchify(torch.zeros(1, 3, *size), (4, 4))
