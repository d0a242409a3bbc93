"""Every public kind of ViT against its peer: outputs, gradients, sizes, names; and one pass against many."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm as peers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import InputError
from vision.names import hugging_face, meta, timm
from vision.presets import PRESETS, vit_config
from vision.vit import ViT, ViTConfig
from vision.weights import export_vit, load_vit

KINDS = [
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_large_patch16_224",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_giant_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_dinov3_qkvb",
    "vit_small_plus_patch16_dinov3",
    "vit_base_patch16_siglip_224",
    "vit_so400m_patch16_siglip_256",
    "vit_base_patch16_siglip_gap_224",
    "vit_base_patch32_clip_224",
    "vit_base_patch32_clip_quickgelu_224",
]
LIKE_OTHERS = (  # but for their widths: compared when thorough
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_large_patch16_224",
    "vit_so400m_patch16_siglip_256",
)
LABELS = 5


def shaken(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


def pair(name: str, side: int, depth: int = 2) -> tuple[ViT, nn.Module]:
    """Ours and timm's, of the real width but with few blocks, with the same random weights."""
    config = replace(PRESETS[name], depth=depth, classes=LABELS, image=(side, side))
    theirs = shaken(peers.create_model(name, depth=depth, num_classes=LABELS, img_size=side))
    ours = ViT(config).eval()
    ours.load_state_dict(timm(config).load(theirs.state_dict()))
    return ours, theirs


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough if name in LIKE_OTHERS else ()) for name in KINDS]
)
def test_outputs_and_gradients_equal_timm(name: str) -> None:
    torch.manual_seed(0)
    side = 4 * PRESETS[name].patch
    ours, theirs = pair(name, side)
    images = torch.randn(2, 3, side, side)
    x, y = images.clone().requires_grad_(), images.clone().requires_grad_()
    found, expected = ours(x), theirs(y)
    assert gap(found.detach(), expected.detach()) < 1e-4
    expected.square().sum().backward()
    found.square().sum().backward()
    assert gap(x.grad, y.grad) < 1e-4
    gradients = {key: p.grad if p.grad is not None else torch.zeros_like(p) for key, p in theirs.named_parameters()}
    expected_gradients = timm(ours.config).load(gradients)
    for key, parameter in ours.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert gap(grad, expected_gradients[key]) < 1e-4, key


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_have_timms_tensors(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        theirs = peers.create_model(name, **({} if "dinov" in name else {"num_classes": config.classes}))
        ours = ViT(config)
    translated = {key: t.shape for key, t in timm(config).load(theirs.state_dict()).items()}
    assert translated == {key: t.shape for key, t in ours.state_dict().items()}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch16_dinov3"])
def test_other_sizes_equal_timm(name: str) -> None:
    """Positions are resampled, or follow the size."""
    torch.manual_seed(0)
    config = replace(PRESETS[name], depth=2, classes=LABELS)
    theirs = shaken(peers.create_model(name, depth=2, num_classes=LABELS, dynamic_img_size=True))
    ours = ViT(config).eval()
    ours.load_state_dict(timm(config).load(theirs.state_dict()))
    for size in [(224, 224), (96, 160), (320, 320)]:
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert gap(ours(images), theirs(images)) < 1e-4
            features = theirs.forward_features(images)
            assert gap(ours.features(images).x, features) < 1e-4
            grid = size[0] // 16, size[1] // 16
            patches = features[:, ours.config.prefix :].transpose(1, 2).unflatten(2, grid)
            assert gap(ours.dense(images), patches) < 1e-4


def test_a_size_that_the_patch_does_not_divide_is_refused() -> None:
    model = ViT(ViTConfig(dim=32, depth=1, heads=2, classes=0))
    with pytest.raises(ValueError, match=r"patches of \(16, 16\) do not divide an input of \(225, 224\)"):
        model(torch.zeros(1, 3, 225, 224))
    with pytest.raises(ValueError, match="do not divide"):
        model(torch.zeros(1, 3, 1, 1))


VARIED = {
    "class token": {},
    "registers": {"registers": 3, "positions": "no registers"},
    "all": {"registers": 2},
    "patches": {"positions": "patches", "layer_scale": 0.5},
    "sincos": {"positions": "sincos"},
    "rotary": {"positions": "rotary", "registers": 2},
    "mean": {"pool": "mean", "cls_token": False, "positions": "patches"},
    "q/k norm": {"qk_norm": True},
    "distilled": {"distilled": True, "pool": "distilled"},
    "convolutions": {"stem": "convolutions", "mask_token": False},
}


def small(**changes: Any) -> ViT:
    torch.manual_seed(0)
    config = ViTConfig(image=(32, 32), patch=8, dim=32, depth=3, heads=2, classes=4)
    return shaken(ViT(replace(config, **{"mask_token": True, **changes})))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", VARIED)
def test_packed_equals_group_by_group(kind: str) -> None:
    model = small(**VARIED[kind]).train()
    groups = [torch.randn(3, 3, 32, 32), torch.randn(4, 3, 16, 16), torch.randn(1, 3, 8, 24)]
    mask = torch.rand(3, 16) < 0.4 if model.config.mask_token else None
    masks = [mask, None, None]
    parts = model.packed(groups, masks)
    sum(part.square().sum() for part in parts).backward()
    packed = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = [model.features(x, masked=m).x for x, m in zip(groups, masks, strict=True)]
    sum(part.square().sum() for part in alone).backward()
    for a, b in zip(parts, alone, strict=True):
        assert a.shape == b.shape
        assert gap(a.detach(), b.detach()) < 1e-5
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert gap(packed[name], parameter.grad) < 1e-5, name


@pytest.mark.parametrize("kind", VARIED)
def test_kept_patches_are_those_of_the_whole(kind: str) -> None:
    """Embedded alone, a patch is what it is among all: its pixels and its place."""
    model = small(**VARIED[kind])
    images = torch.randn(2, 3, 32, 32)
    keep = torch.tensor([[0, 5, 9], [15, 2, 3]])
    some, places = model.embed(images, keep=keep)
    whole, everywhere = model.embed(images)
    prefix = model.config.prefix
    rows = torch.cat([torch.arange(prefix).expand(2, -1), prefix + keep], 1)[..., None]
    assert torch.allclose(some, whole.gather(1, rows.expand(-1, -1, 32)), atol=1e-6)
    if places is not None and everywhere is not None:
        assert torch.equal(places, everywhere.expand(2, -1, -1).gather(1, rows.expand(-1, -1, 4)))
    everyone = torch.arange(16).expand(2, -1)
    assert gap(model.features(images, keep=everyone).x.detach(), model.features(images).x.detach()) < 1e-6


def test_patches_are_dropped_in_training_only() -> None:
    model = small(drop_patches=0.5)
    images = torch.randn(2, 3, 32, 32)
    assert model.features(images).x.shape[1] == 17
    assert model.train().features(images).x.shape[1] == 9


def test_drop_path_drops_segments_of_a_packed_row() -> None:
    model = small(drop_path=1.0, depth=2).train()  # the last block is always left out
    images = torch.randn(6, 3, 16, 16)
    before = model.norm(model.blocks[0](model.embed(images)[0]).x)
    assert gap(model.packed([images])[0].detach(), before.detach()) < 1e-5
    half = small(drop_path=0.5, depth=2).train()
    row = half.packed([images])[0]
    plain = half.norm(half.blocks[0](half.embed(images)[0]).x)
    dropped = [(a - b).abs().max() < 1e-5 for a, b in zip(row, plain, strict=True)]
    assert row.shape == (6, 5, 32)
    assert isinstance(any(dropped), bool)


def test_recomputed_equals_direct() -> None:
    direct = small()
    again = ViT(direct.config, recompute=True)
    again.load_state_dict(direct.state_dict())
    images = torch.randn(2, 3, 32, 32)
    for model in (direct, again):
        model.train()(images).square().sum().backward()
    for a, b in zip(direct.parameters(), again.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)


SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
SIZE |= {"image_size": 32, "patch_size": 8}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 7}
GATED = {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"}
HUGGING_FACE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "deit": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", SIZE),
    "deit encoder": ("DeiTModel", "DeiTConfig", SIZE),
    "dinov2": ("Dinov2Model", "Dinov2Config", SMALL),
    "dinov2 gated": ("Dinov2Model", "Dinov2Config", SMALL | {"use_swiglu_ffn": True}),
    "dinov2 registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", SMALL),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", SIZE | {"num_register_tokens": 4}),
    "dinov3 gated": ("DINOv3ViTModel", "DINOv3ViTConfig", SIZE | GATED),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", SIZE),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", SIZE),
}


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_hugging_face_there_and_back(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, config, settings = HUGGING_FACE[kind]
    peer = shaken(getattr(transformers, model)(getattr(transformers, config)(**settings)))
    peer.save_pretrained(tmp_path)
    ours, info = load_vit(tmp_path)
    images = torch.randn(2, 3, settings["image_size"], settings["image_size"])
    x, y = images.clone().requires_grad_(), images.clone().requires_grad_()
    given = peer(y)
    if kind == "deit":
        found, expected = ours(x), given.logits
    elif kind in ("siglip", "clip"):
        found, expected = ours(x), given.pooler_output
    else:
        found, expected = ours.features(x).x, given.last_hidden_state
    assert gap(found.detach(), expected.detach()) < 1e-4
    found.square().sum().backward()
    expected.square().sum().backward()
    assert gap(x.grad, y.grad) < 1e-4
    export_vit(ours, tmp_path / "out.safetensors", info.source)
    back, there = load_file(tmp_path / "out.safetensors"), load_file(tmp_path / "model.safetensors")
    there = {key: t for key, t in there.items() if "pooler." not in key}
    assert back.keys() == there.keys()
    assert all(torch.equal(back[key], there[key]) for key in there)


def published(name: str) -> dict[str, Tensor]:
    """A checkpoint as facebookresearch/dinov2 and dinov3 publish them, with random weights."""
    config = vit_config(name, depth=2, mask_token=True, pool="cls")
    if config.registers and config.positions == "patches":
        config = replace(config, positions="no registers")
    model = shaken(ViT(config))
    state = meta(config).export(model.state_dict())
    if config.positions == "rotary":
        for block in range(2):
            bias = state.setdefault(f"blocks.{block}.attn.qkv.bias", torch.randn(3 * config.dim))
            bias.chunk(3)[1].zero_()
            mask = torch.ones(3 * config.dim)
            mask.chunk(3)[1].zero_()
            state[f"blocks.{block}.attn.qkv.bias_mask"] = mask
    return state


PUBLISHED = [
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3_qkvb",
    "vit_small_plus_patch16_dinov3_qkvb",
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_without_a_config(name: str, tmp_path: Path) -> None:
    """Names and shapes tell the size; timm's own import of the same file is the reference."""
    torch.manual_seed(0)
    state = published(name)
    save_file(state, tmp_path / "model.safetensors")
    ours, info = load_vit(tmp_path / "model.safetensors")
    assert info.layout == "meta"
    kind = {"global_pool": "token"} if "dinov3" in name else {}
    theirs = peers.create_model(name, depth=2, **kind).eval()
    made = peers.models.eva if "dinov3" in name else peers.models.vision_transformer
    theirs.load_state_dict(made.checkpoint_filter_fn(copy.deepcopy(state), theirs))
    images = torch.randn(1, 3, *ours.config.image)
    with torch.no_grad():
        assert gap(ours(images), theirs.forward_head(theirs.forward_features(images), pre_logits=True)) < 1e-4
    export_vit(ours, tmp_path / "out.safetensors", info.source)
    back = load_file(tmp_path / "out.safetensors")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"])
def test_timms_names_without_a_config(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = shaken(peers.create_model(name, depth=2, num_classes=3))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours, _ = load_vit(tmp_path)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert gap(ours(images), theirs(images)) < 1e-4


def test_what_does_not_fit_together_is_said() -> None:
    with pytest.raises(ValueError, match="pool 'cls' needs cls_token"):
        ViTConfig(cls_token=False)
    with pytest.raises(ValueError, match="needs distilled"):
        ViTConfig(pool="distilled")
    with pytest.raises(ValueError, match="mask_token: true"):
        ViT(ViTConfig(image=(16, 16), dim=16, depth=1, heads=1)).features(
            torch.zeros(1, 3, 16, 16), masked=torch.ones(1, 1, dtype=torch.bool)
        )
    with pytest.raises(InputError, match="no ViT preset 'resnet'"):
        vit_config("resnet")
    assert hugging_face(PRESETS["vit_base_patch16_siglip_224"]).name == "huggingface"
