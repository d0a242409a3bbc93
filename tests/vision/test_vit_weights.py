"""ViT's checkpoints of timm and Hugging Face: in, the same numbers as the peer, and out again byte for byte."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import timm as peers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import InputError
from core.weights import Bundle, save_bundle
from vision.vit import ViT, ViTConfig
from vision.weights import TIMM, export_vit, load_vit, timm

SMALL = {"img_size": (32, 48), "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 7}
CONFIG = ViTConfig(image=(32, 48), patch=16, dim=64, depth=2, heads=4, classes=7)

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "class token": ({}, {}),
    "no head": ({"num_classes": 0}, {"classes": 0}),
    "mean": ({"global_pool": "avg"}, {"pool": "mean"}),
    "mean without class token": ({"global_pool": "avg", "class_token": False}, {"pool": "mean", "cls_token": False}),
    "attention pool": (
        {"global_pool": "map", "class_token": False},
        {"pool": "map", "cls_token": False},
    ),
    "registers": ({"reg_tokens": 3}, {"registers": 3}),
    "registers without positions": (
        {"reg_tokens": 3, "no_embed_class": True},
        {"registers": 3, "positions": "patches"},
    ),
    "LayerScale": ({"init_values": 0.1}, {"layer_scale": 0.1}),
    "grey": ({"in_chans": 1, "patch_size": 8}, {"channels": 1, "patch": 8}),
}


def shaken(model: nn.Module) -> nn.Module:
    """The model with no parameter left at zero or one, where mistakes would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def same_bytes(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("name", VARIANTS)
def test_timm_there_and_back(tmp_path: Path, name: str) -> None:
    theirs, ours = VARIANTS[name]
    peer = shaken(peers.models.VisionTransformer(**(SMALL | theirs)))
    state = {key: tensor.half() for key, tensor in peer.state_dict().items()}
    peer.load_state_dict(state)
    config = replace(CONFIG, **ours)
    save_file(state, tmp_path / "model.safetensors")
    model, info = load_vit(tmp_path, config)
    images = torch.randn(2, config.channels, 32, 48)

    x = images.clone().requires_grad_()
    expected = peer(x)
    expected.square().sum().backward()
    y = images.clone().requires_grad_()
    found = model(y)
    found.square().sum().backward()
    assert gap(found.detach(), expected.detach()) < 1e-4
    assert gap(y.grad, x.grad) < 1e-4
    gradients = timm(config).load({key: p.grad for key, p in peer.named_parameters()})
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for key, parameter in model.named_parameters():
        assert gap(parameter.grad, gradients[key]) < 1e-4 * max(1, gradients[key].abs().max()), key

    export_vit(model, tmp_path / "out.safetensors", info.source)
    assert same_bytes(load_file(tmp_path / "out.safetensors"), state)
    export_vit(model, tmp_path / "new.safetensors")
    peer.load_state_dict(load_file(tmp_path / "new.safetensors"))  # strict


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_timm_folder(tmp_path: Path, pool: str) -> None:
    """A folder as the Hub has it: the size by its name, the rest by its tensors."""
    name = "vit_tiny_patch16_224"
    peer = shaken(peers.create_model(name, num_classes=3, global_pool=pool)).float()
    save_file(peer.state_dict(), tmp_path / "model.safetensors")
    said = {
        "architecture": name + ".augreg_in21k",
        "num_classes": 3,
        "global_pool": pool,
        "label_names": ["a", "b", "c"],
    }
    (tmp_path / "config.json").write_text(json.dumps(said | {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}))
    model, info = load_vit(tmp_path)
    assert info.labels == ("a", "b", "c")
    assert info.preprocessing == {"mean": [0.5, 0.5, 0.5]}
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert gap(model(images), peer(images)) < 1e-4
    assert same_bytes(TIMM.export(model.state_dict(), info.source), dict(peer.state_dict()))
    for change, message in [
        ({"architecture": "resnet50"}, "architecture 'resnet50'"),
        ({"architecture": "vit_small_patch16_224"}, "wrong: "),
        ({"global_pool": "map"}, "pools by 'map'"),
        ({"global_pool": ["x"]}, "pools by"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(said | change))
        with pytest.raises(InputError, match=message):
            load_vit(tmp_path)


@pytest.fixture(scope="module")
def hugging_face() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=32,
        id2label={0: "cat", 1: "dog", 2: "fox"},
    )
    return transformers, config


def test_hugging_face_classifier(hugging_face: Any, tmp_path: Path) -> None:
    transformers, config = hugging_face
    peer = shaken(transformers.ViTForImageClassification(config))
    peer.half().save_pretrained(tmp_path)
    model, info = load_vit(tmp_path)
    assert model.config.hidden == 96
    assert info.labels == ("cat", "dog", "fox")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert gap(model(images), peer.float()(images).logits) < 1e-4
    export_vit(model, tmp_path / "out.safetensors", info.source)
    assert same_bytes(load_file(tmp_path / "out.safetensors"), load_file(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("pooler", [True, False])
def test_hugging_face_encoder(hugging_face: Any, tmp_path: Path, pooler: bool) -> None:
    transformers, config = hugging_face
    peer = shaken(transformers.ViTModel(config, add_pooling_layer=pooler))
    peer.save_pretrained(tmp_path)
    model, info = load_vit(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        states = peer(images).last_hidden_state
        assert gap(model.features(images).x, states) < 1e-4
        assert gap(model(images), states[:, 0]) < 1e-4
    export_vit(model, tmp_path / "out.safetensors", info.source)
    kept = {key: t for key, t in load_file(tmp_path / "model.safetensors").items() if not key.startswith("pooler.")}
    assert same_bytes(load_file(tmp_path / "out.safetensors"), kept)


def test_from_one_layout_to_the_other(hugging_face: Any, tmp_path: Path) -> None:
    transformers, config = hugging_face
    peer = shaken(peers.models.VisionTransformer(**(SMALL | {"img_size": 32, "num_classes": 3})))
    save_file(peer.state_dict(), tmp_path / "model.safetensors")
    model, _ = load_vit(tmp_path, replace(CONFIG, image=(32, 32), classes=3))
    folder = tmp_path / "hf"
    config.__class__.from_dict(config.to_dict() | {"intermediate_size": 256, "layer_norm_eps": 1e-6}).save_pretrained(
        folder
    )
    export_vit(model, folder / "model.safetensors", layout="huggingface")
    other = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert gap(other(images).logits, peer(images)) < 1e-4


def test_a_bundle_is_enough(tmp_path: Path) -> None:
    model = shaken(ViT(CONFIG))
    save_bundle(tmp_path / "vit", model, Bundle("vision.ViT", asdict(CONFIG), labels=tuple("abcdefg")))
    again, info = load_vit(tmp_path / "vit")
    assert again.config == CONFIG
    assert info.labels == tuple("abcdefg")
    assert same_bytes(dict(again.state_dict()), dict(model.state_dict()))


SPOILED = {
    "missing": (lambda s: s.pop("blocks.1.ls1.gamma"), r"1 missing: blocks\.1\.ls1\.gamma \(our blocks\.1\.attn\.post"),
    "extra": (lambda s: s.update(stray=torch.zeros(2)), "1 unexpected: stray"),
    "head": (lambda s: s.update({"head.bias": torch.zeros(1000)}), r"head\.bias .* \(1000,\), expected \(7,\)"),
    "kernel": (
        lambda s: s.update({"patch_embed.proj.weight": torch.zeros(64, 3, 32, 32)}),
        r"\(64, 3, 32, 32\) is not of the form \(-1, 3, 16, 16\)",
    ),
    "positions": (lambda s: s.update(pos_embed=torch.zeros(1, 197, 64)), r"\(197, 64\), expected \(7, 64\)"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_misfits_are_refused(tmp_path: Path, kind: str) -> None:
    state = dict(peers.models.VisionTransformer(**SMALL, init_values=0.1).state_dict())
    spoil, message = SPOILED[kind]
    spoil(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=message) as caught:
        load_vit(tmp_path, replace(CONFIG, layer_scale=0.1))
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_vit(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is no ViT"):
        load_vit(tmp_path)
    save_file({"blocks.0.norm1.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"config\.json"):
        load_vit(tmp_path)
