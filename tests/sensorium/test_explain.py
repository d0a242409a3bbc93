"""Explanations against closed forms, scikit-learn and the plain kernel; the command on real files."""

import dataclasses

import pytest
import torch
from sklearn.decomposition import PCA

from core.errors import InputError
from core.nn import kernels
from vision.explain import attention, attention_maps, patch_colours, principal_components, rollout, rollout_map
from vision.vit import ViT, ViTConfig

TINY = ViTConfig(image=(32, 32), patch=8, dim=24, depth=3, heads=3, classes=5, registers=1)


def test_rollout_closed_form():
    # one head: everything looks at token 0. Then (A + I) / 2 = [[1, 0], [1/2, 1/2]], and squared [[1, 0], [3/4, 1/4]]
    weights = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)[None, None]
    expected = torch.tensor([[[1.0, 0.0], [0.75, 0.25]]], dtype=torch.float64)
    assert torch.equal(rollout([weights, weights]), expected)
    # of heads the mean counts, and the first block is applied first
    first, second = torch.rand(2, 3, 4, 4, dtype=torch.float64).softmax(-1), torch.rand(2, 3, 4, 4).double().softmax(-1)
    halves = [(w.mean(1) + torch.eye(4, dtype=torch.float64)) / 2 for w in (first, second)]
    torch.testing.assert_close(rollout([first, second]), halves[1] @ halves[0])
    torch.testing.assert_close(rollout([first, second]).sum(-1), torch.ones(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="every block"):
        rollout([])


def test_components_are_scikit_learns():
    x = torch.randn(60, 7, dtype=torch.float64) * torch.arange(1.0, 8, dtype=torch.float64) + 3
    peer = PCA(3, svd_solver="full").fit_transform(x.numpy())
    torch.testing.assert_close(principal_components(x), torch.from_numpy(peer))
    assert principal_components(torch.randn(9, 2)).shape == (9, 3)


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_weights_are_those_of_the_plain_kernel(size: tuple[int, int]):
    vit = ViT(TINY).eval()
    images = torch.randn(2, 3, *size)
    found = attention(vit, images, range(3))
    # the same by hand, layer by layer
    x, coords = vit.embed(images)
    assert coords is None
    for number, block in enumerate(vit.blocks):
        branch = block.attn
        q, k = branch.fn.q(branch.norm(x)), branch.fn.k(branch.norm(x))
        weights = (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1)
        torch.testing.assert_close(found[number], weights)
        x = block(x).x
    assert kernels is not None
    grid = size[0] // 8, size[1] // 8
    maps = attention_maps(vit, images)
    torch.testing.assert_close(maps.flatten(2), found[-1][:, :, 0, 2:])
    assert maps.shape == (2, 3, *grid)
    torch.testing.assert_close(rollout_map(vit, images).flatten(1), rollout(found)[:, 0, 2:])
    colours = patch_colours(vit, images)
    assert colours.shape == (2, 3, *grid)
    assert colours.min() == 0
    assert colours.max() == 1
    with pytest.raises(InputError, match=r"has blocks 0\.\.2"):
        attention(vit, images, [3])


def test_without_a_class_token_the_patches_look():
    vit = ViT(dataclasses.replace(TINY, cls_token=False, pool="mean", registers=0)).eval()
    images = torch.randn(1, 3, 32, 32)
    (weights,) = attention(vit, images, [-1])
    torch.testing.assert_close(attention_maps(vit, images).flatten(2), weights.mean(2))
