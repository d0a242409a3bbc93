"""Swin's checkpoints of timm, the authors, torchvision and Hugging Face: in, same numbers, and out byte for byte."""

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
from vision.swin import Swin, SwinConfig
from vision.swin_weights import SWIN_MAKERS, export_swin, load_swin

SMALL = {"img_size": 32, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "num_classes": 5}
CONFIG = SwinConfig(image=(32, 32), dim=16, depths=(2, 2), heads=(2, 4), windows=(4, 4), classes=5)


def shaken(model: nn.Module) -> nn.Module:
    """The model with no parameter left at zero or one, where mistakes would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def same_bytes(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def timm_peer(version: int, **settings: Any) -> nn.Module:
    kind = peers.models.SwinTransformer if version == 1 else peers.models.SwinTransformerV2
    return shaken(kind(**(SMALL | settings)))


def as_published(peer: nn.Module, version: int) -> dict[str, Tensor]:
    """A state dict as the authors publish it: merging ends a stage, and tables of the windows are among the weights."""
    names = {"relative_position_index", "relative_coords_table", "attn_mask"}
    state = {}
    for name, tensor in [*peer.named_parameters(), *peer.named_buffers()]:
        if name.startswith("layers.1.downsample."):
            name = name.replace("layers.1.", "layers.0.")
        if name.rpartition(".")[2] in names or not name.endswith("k_bias"):
            state[name.replace("head.fc.", "head.")] = tensor.detach()
    return state


def there_and_back(folder: Path, config: SwinConfig | None, layout: str) -> tuple[Swin, dict[str, Tensor]]:
    """Load a file or folder, and see that it leaves as it came."""
    model, origin = load_swin(folder, config)
    assert origin.layout == layout
    export_swin(model, folder / "out" / "model.safetensors", origin.source)
    assert same_bytes(load_file(folder / "out" / "model.safetensors"), load_file(folder / "model.safetensors"))
    export_swin(model, folder / "new" / "model.safetensors", layout=layout)
    return model.eval(), load_file(folder / "new" / "model.safetensors")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("changes", [{}, {"num_classes": 0}, {"in_chans": 1, "patch_size": 2}], ids=str)
def test_timm_there_and_back(tmp_path: Path, version: int, changes: dict[str, Any]) -> None:
    peer = timm_peer(version, **changes)
    state = {name: tensor.half() for name, tensor in peer.state_dict().items()}
    peer.load_state_dict(state)
    save_file(state, tmp_path / "model.safetensors")
    ours = {"num_classes": "classes", "in_chans": "channels", "patch_size": "patch"}
    config = replace(CONFIG, version=version, **{ours[name]: value for name, value in changes.items()})
    model, written = there_and_back(tmp_path, config, "timm")
    images = torch.randn(2, config.channels, 32, 32)
    assert gap(model(images), peer(images)) < 1e-4
    peer.load_state_dict(written)  # strict


def test_timm_folder(tmp_path: Path) -> None:
    """A folder as the Hub has it: the size by its name."""
    peer = shaken(peers.create_model("swin_tiny_patch4_window7_224", num_classes=3))
    save_file(peer.state_dict(), tmp_path / "model.safetensors")
    said = {"architecture": "swin_tiny_patch4_window7_224.ms_in1k", "label_names": ["a", "b", "c"]}
    (tmp_path / "config.json").write_text(json.dumps(said | {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}))
    model, origin = load_swin(tmp_path)
    assert model.config.classes == 3
    assert origin.labels == ("a", "b", "c")
    assert origin.preprocessing == {"mean": [0.5, 0.5, 0.5]}
    for change, message in [
        ({"architecture": "resnet50"}, "architecture 'resnet50'"),
        ({"architecture": "swin_small_patch4_window7_224"}, "missing: "),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(said | change))
        with pytest.raises(InputError, match=message):
            load_swin(tmp_path)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [32, 40], ids=["whole windows", "padded windows"])
def test_the_authors_files(tmp_path: Path, version: int, size: int) -> None:
    """With the tables that they keep: their values are checked, and they leave again."""
    peer = timm_peer(version, img_size=size)
    state = as_published(peer, version)
    assert sum(name.endswith("attn_mask") for name in state) == (2 if size == 40 else 1)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "model.safetensors")
    config = replace(CONFIG, version=version, image=(size, size))
    model, written = there_and_back(tmp_path, config, "microsoft")
    images = torch.randn(2, 3, size, size)
    assert gap(model(images), peer(images)) < 1e-4
    tables = ("relative_position_index", "relative_coords_table", "attn_mask")
    assert written.keys() == {name for name in state if not name.endswith(tables)}
    torch.save({"model": state}, tmp_path / "published.pth")
    again, _ = load_swin(tmp_path / "published.pth", config)
    assert same_bytes(again.state_dict(), model.state_dict())
    broken = dict(state)
    broken["layers.0.blocks.0.attn.relative_position_index"] = state[
        "layers.0.blocks.0.attn.relative_position_index"
    ].flip(0)
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(InputError, match="relative_position_index should follow from the window"):
        load_swin(tmp_path / "broken.pth", config)


@pytest.mark.parametrize("version", [1, 2])
def test_torchvision_there_and_back(tmp_path: Path, version: int) -> None:
    from torchvision.models import swin_transformer as tv

    kinds: dict[str, Any] = {}
    if version == 2:
        kinds = {"block": tv.SwinTransformerBlockV2, "downsample_layer": tv.PatchMergingV2}
    peer = shaken(tv.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=5, **kinds))
    if version == 2:  # as it is after their constructor
        for name, tensor in peer.named_parameters():
            if name.endswith("qkv.bias"):
                tensor.data.view(3, -1)[1] = 0
    save_file(peer.state_dict(), tmp_path / "model.safetensors")
    model, _ = there_and_back(tmp_path, replace(CONFIG, version=version, padding="straight"), "torchvision")
    for size in (32, 40) if version == 1 else (32,):
        images = torch.randn(2, 3, size, size)
        assert gap(model(images), peer(images)) < 1e-4


def hugging_face(version: int, **settings: Any) -> tuple[Any, Any, Any]:
    transformers = pytest.importorskip("transformers")
    names = {1: "Swin", 2: "Swinv2"}[version]
    config = getattr(transformers, names + "Config")(
        image_size=32, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4,
        id2label={0: "cat", 1: "dog", 2: "fox"}, **settings,
    )  # fmt: skip
    return config, getattr(transformers, names + "ForImageClassification"), getattr(transformers, names + "Model")


@pytest.mark.parametrize(
    ("version", "settings"), [(1, {}), (2, {}), (2, {"pretrained_window_sizes": [3, 3]})], ids=["1", "2", "2 trained"]
)
def test_hugging_face_classifier(tmp_path: Path, version: int, settings: dict[str, Any]) -> None:
    config, classifier, _ = hugging_face(version, **settings)
    peer = shaken(classifier(config))
    peer.half().save_pretrained(tmp_path)
    model, written = there_and_back(tmp_path, None, "huggingface")
    assert written.keys() == load_file(tmp_path / "model.safetensors").keys()
    assert load_swin(tmp_path)[1].labels == ("cat", "dog", "fox")
    peer.float()
    for size in (32, 40):
        if version == 1:  # theirs stops to shift for good when it meets a grid of one window
            peer = classifier.from_pretrained(tmp_path, dtype=torch.float32)
        images = torch.randn(2, 3, size, size)
        x, y = images.clone().requires_grad_(), images.clone().requires_grad_()
        expected, found = peer(x).logits, model(y)
        assert gap(found, expected) < 1e-4
        (wanted,), (got,) = torch.autograd.grad(expected.sum(), x), torch.autograd.grad(found.sum(), y)
        assert gap(got, wanted) < 1e-4


@pytest.mark.parametrize("version", [1, 2])
def test_hugging_face_encoder(tmp_path: Path, version: int) -> None:
    config, _, encoder = hugging_face(version)
    peer = shaken(encoder(config))
    peer.save_pretrained(tmp_path)
    model, _ = there_and_back(tmp_path, None, "huggingface-bare")
    images = torch.randn(2, 3, 32, 32)
    found, expected = model.features(images).x, peer(images)
    assert gap(found, expected.last_hidden_state) < 1e-4
    assert gap(model(images), expected.pooler_output) < 1e-4


def test_hugging_face_configs_that_are_not_known(tmp_path: Path) -> None:
    config, classifier, _ = hugging_face(1)
    classifier(config).save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    for change, message in [
        ({"model_type": "vit"}, "model_type is 'vit'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"use_absolute_embeddings": True}, "use_absolute_embeddings is True"),
        ({"depths": 3}, "depths"),
        ({"window_size": "x"}, "windows"),
        ({"num_heads": [3, 4]}, "makes no model"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(said | change))
        with pytest.raises(InputError, match=message):
            load_swin(tmp_path)
    del said["embed_dim"]
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match="lacks embed_dim: not a Swin"):
        load_swin(tmp_path)


@pytest.mark.parametrize("version", [1, 2])
def test_bundle(tmp_path: Path, version: int) -> None:
    model = shaken(Swin(config := replace(CONFIG, version=version, trained=(3, 3) if version == 2 else ())))
    save_bundle(tmp_path / "b", model, Bundle("vision.Swin", asdict(config), labels=tuple("abcde")))
    again, origin = load_swin(tmp_path / "b")
    assert again.config == config
    assert origin.layout == "bundle"
    assert origin.labels == tuple("abcde")
    assert same_bytes(again.state_dict(), model.state_dict())
    assert set(SWIN_MAKERS) == {"vision.Swin"}


def test_what_is_no_swin(tmp_path: Path) -> None:
    save_file({"blocks.0.norm1.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is no Swin: expected one of timm, microsoft"):
        load_swin(tmp_path, CONFIG)
    with pytest.raises(InputError, match="no Swin layout 'x'"):
        export_swin(Swin(CONFIG), tmp_path / "x.safetensors", layout="x")
