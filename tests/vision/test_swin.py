"""Swin, both versions, against timm and torchvision: outputs, gradients, sizes."""

from dataclasses import replace
from typing import Any

import pytest
import timm as peers
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.nn import recomputed
from vision.swin import Swin, SwinConfig
from vision.swin_presets import SWIN_PRESETS, swin, swin_config
from vision.swin_weights import swin_table

SHALLOW = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 7, "num_classes": 5}
CONFIG = SwinConfig(dim=24, depths=(2, 2), heads=(2, 4), windows=(7, 7), classes=5)
TINY = SwinConfig(image=(32, 32), dim=16, depths=(2, 2), heads=(2, 2), windows=(4, 4), classes=3)


def shaken(model: nn.Module) -> nn.Module:
    """The model with no parameter left at zero or one, where mistakes would not show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1))


def theirs(version: int, **settings: Any) -> nn.Module:
    kind = peers.models.SwinTransformer if version == 1 else peers.models.SwinTransformerV2
    return shaken(kind(**(SHALLOW | settings)))


def filled(config: SwinConfig, peer: nn.Module, layout: str = "timm") -> Swin:
    model = Swin(config).eval()
    model.load_state_dict(swin_table(config, layout).load(peer.state_dict()))
    return model


def compare(ours: Swin, peer: nn.Module, images: Tensor) -> None:
    """Logits, and the gradients of images and parameters, within 1e-4."""
    x, y = images.clone().requires_grad_(), images.clone().requires_grad_()
    expected, found = peer(x), ours(y)
    weights = torch.linspace(-1, 1, expected.numel()).view_as(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    assert gap(found, expected) < 1e-4
    assert x.grad is not None
    assert y.grad is not None
    assert gap(y.grad / x.grad.abs().max(), x.grad / x.grad.abs().max()) < 1e-4
    named = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    gradients = swin_table(ours.config, "timm").load(named)
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert gap(parameter.grad, gradients[name]) < 1e-4, name


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "size", [(224, 224), (320, 320), (64, 96), (20, 28)], ids=["224", "320", "oblong", "less than a window"]
)
def test_outputs_and_gradients_equal_timm(version: int, size: tuple[int, int]) -> None:
    """At 224 pixels the window divides every grid, at 320 it divides none."""
    ours = filled(replace(CONFIG, version=version, image=size), peer := theirs(version, img_size=size))
    compare(ours, peer, torch.randn(2 if size[0] < 100 else 1, 3, *size))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [(56, 56), (72, 40), (16, 12)])
def test_one_model_takes_any_size_as_timm_does(version: int, size: tuple[int, int]) -> None:
    ours = filled(
        replace(CONFIG, version=version, image=(56, 56)),
        peer := theirs(version, img_size=56, strict_img_size=False),
    )
    compare(ours, peer, torch.randn(2, 3, *size))


def test_windows_larger_than_those_of_the_training_equal_timm() -> None:
    config = replace(CONFIG, version=2, image=(64, 64), windows=(8, 8), trained=(6, 3))
    peer = theirs(2, img_size=64, window_size=8, pretrained_window_sizes=(6, 3))
    compare(filled(config, peer), peer, torch.randn(1, 3, 64, 64))


def test_windows_of_their_own_for_each_stage_equal_timm() -> None:
    peer = theirs(1, img_size=64, window_size=((4, 4), (8, 8)), patch_size=2, in_chans=1, mlp_ratio=2.5)
    config = replace(CONFIG, image=(64, 64), windows=(4, 8), patch=2, channels=1, mlp_ratio=2.5)
    compare(filled(config, peer), peer, torch.randn(1, 1, 64, 64))


@pytest.mark.parametrize("size", [(224, 224), (320, 320)])
def test_a_whole_tiny_swin_equals_timm(size: tuple[int, int]) -> None:
    peer = shaken(peers.create_model("swin_tiny_patch4_window7_224", img_size=size))
    ours = filled(swin_config("swin_tiny_patch4_window7_224", image=size), peer)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert gap(ours(images), peer(images)) < 1e-4


@pytest.mark.parametrize("name", SWIN_PRESETS)
def test_presets_have_the_tensors_of_timm(name: str) -> None:
    with torch.device("meta"):
        ours, peer = Swin(SWIN_PRESETS[name]), peers.create_model(name)
    wanted = swin_table(SWIN_PRESETS[name], "timm", buffers=False).load(dict(peer.named_parameters()))
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in wanted.items()}
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())
    size = peer.pretrained_cfg["input_size"][1:]
    assert ours.config.image == tuple(size)
    for number, stage in enumerate(ours.levels):
        for block, other in zip(stage.stack, peer.layers[number].blocks, strict=True):
            assert (block.attn.fn.size, block.attn.fn.shift) == (other.window_size, other.shift_size)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [(56, 56), (40, 72), (32, 32)])
def test_straight_padding_equals_torchvision(version: int, size: tuple[int, int]) -> None:
    from torchvision.models import swin_transformer as tv

    kinds: dict[str, Any] = {}
    if version == 2:
        kinds = {"block": tv.SwinTransformerBlockV2, "downsample_layer": tv.PatchMergingV2}
    peer = shaken(tv.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=5, **kinds))
    if version == 2:
        with torch.no_grad():
            for name, tensor in peer.named_parameters():
                if name.endswith("qkv.bias"):
                    tensor.view(3, -1)[1] = 0
    config = SwinConfig(version=version, image=size, dim=16, depths=(2, 2), heads=(2, 4), windows=(4, 4), classes=5)
    ours = filled(replace(config, padding="straight"), peer, "torchvision")
    images = torch.randn(2, 3, *size)
    x, y = images.clone().requires_grad_(), images.clone().requires_grad_()
    expected, found = peer(x), ours(y)
    assert gap(found, expected) < 1e-5
    (wanted,), (got,) = torch.autograd.grad(expected.sum(), x), torch.autograd.grad(found.sum(), y)
    assert gap(got, wanted) < 1e-5


@pytest.mark.parametrize("version", [1, 2])
def test_feature_maps_equal_timm(version: int) -> None:
    ours = filled(replace(CONFIG, version=version, image=(72, 40)), peer := theirs(version, img_size=(72, 40)))
    images = torch.randn(2, 3, 72, 40)
    final, wanted = peer.forward_intermediates(images)
    for found, expected in zip(ours.stages(images), wanted, strict=True):
        assert gap(found, expected) < 1e-5
    assert ours.dense(images).shape == (2, 48, 9, 5)
    assert gap(ours.dense(images), final.permute(0, 3, 1, 2)) < 1e-5
    tokens = ours.features(images).x
    assert gap(tokens, final.flatten(1, 2)) < 1e-5
    assert torch.equal(ours.head(ours.pool(tokens)), ours(images))


@pytest.mark.parametrize("version", [1, 2])
def test_checkpointed_equals_direct(version: int) -> None:
    config = replace(TINY, version=version)
    plain = shaken(Swin(config))
    saving = Swin(config, run=recomputed)
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 32, 32)
    results = []
    for model in (plain, saving):
        loss = model(images).square().sum()
        results.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [(32, 32), (36, 20)])
def test_alone_equals_batched(version: int, size: tuple[int, int]) -> None:
    model = shaken(Swin(replace(TINY, version=version)))
    images = torch.randn(3, 3, *size)
    together = model(images)
    for number in range(3):
        assert gap(model(images[number : number + 1]), together[number : number + 1]) < 1e-5


def test_what_is_wanted_is_captured() -> None:
    model = shaken(Swin(TINY))
    images = torch.randn(2, 3, 32, 32)
    x, notes = model.features(images, {0: {1: {"attn": [1]}}, 1: {1: {"hidden": True}}})
    assert notes[0][1]["attn"]["weights"].shape == (2 * 4, 1, 16, 16)  # 8 x 8 tokens in 4 windows
    torch.testing.assert_close(model.norm(notes[1][1]["hidden"]).flatten(1, 2), x)
    for want, message in (({2: {}}, "no stage 2"), ({0: {5: {}}}, "no block 5"), ({0: {0: {"x": 1}}}, "no branch 'x'")):
        with pytest.raises(ValueError, match=message):
            model.features(images, want)


def test_drop_path_grows_with_depth_as_timm() -> None:
    settings = SHALLOW | {"drop_path_rate": 0.3}
    for version, kind in ((1, peers.models.SwinTransformer), (2, peers.models.SwinTransformerV2)):
        ours = Swin(replace(CONFIG, version=version, drop_path=0.3))
        found = [m.rate for m in ours.modules() if type(m).__name__ == "DropPath"]
        wanted = [m.drop_prob for m in kind(**settings).modules() if type(m).__name__ == "DropPath"]
        assert found == pytest.approx(wanted)
        images = torch.randn(1, 3, 224, 224)
        shaken(ours)
        assert not torch.equal(ours.train()(images), ours.eval()(images))


@pytest.mark.parametrize("version", [1, 2])
def test_a_new_model_starts_as_timm_does(version: int) -> None:
    torch.manual_seed(0)
    kind = peers.models.SwinTransformer if version == 1 else peers.models.SwinTransformerV2
    peer = kind(**SHALLOW)
    wanted = swin_table(config := replace(CONFIG, version=version), "timm").load(peer.state_dict())
    for name, tensor in Swin(config).state_dict().items():
        if "patch.proj" in name:  # theirs is a convolution's
            continue
        assert abs(float(tensor.std() - wanted[name].std())) < 0.005 or tensor.numel() < 50, name
        assert abs(float(tensor.mean() - wanted[name].mean())) < 0.01, name


@pytest.mark.parametrize("size", [(3, 32), (32, 0), (30, 32)])
def test_sizes_that_cannot_be(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="do not divide"):
        Swin(TINY)(torch.randn(1, 3, *size))
    with pytest.raises(ValueError, match="do not divide"):
        replace(TINY, image=size)


def test_shapes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="one number for each stage"):
        replace(TINY, heads=(2, 2, 2))
    with pytest.raises(ValueError, match="1 or more"):
        replace(TINY, windows=(0, 4))
    for version in (1, 2):
        with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
            Swin(replace(TINY, version=version, heads=(3, 2)))
    with pytest.raises(InputError, match="no Swin preset 'swin'"):
        swin("swin")
    with pytest.raises(InputError, match="has no depth"):
        swin("swin_tiny_patch4_window7_224", depth=3)


def test_one_token() -> None:
    """An image of one patch: windows of one token, and merging with nothing but zeros."""
    for version in (1, 2):
        model = Swin(replace(TINY, version=version, image=(4, 4))).eval()
        assert model(torch.randn(1, 3, 4, 4)).isfinite().all()
