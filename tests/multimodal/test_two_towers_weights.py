"""Two-tower checkpoints of OpenAI, open_clip and Hugging Face come in, and leave as they came, byte for byte."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import InputError
from core.weights import Bundle, read, save_bundle
from multimodal.presets import PRESETS, with_quick_gelu
from multimodal.text import TextConfig
from multimodal.two_towers import TwoTowers, TwoTowersConfig
from multimodal.weights import export_two_towers, load_two_towers
from vision.swin import SwinConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

TINY: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 4, "layers": 2},
}
SIGLIP: dict[str, Any] = {
    "embed_dim": 192,
    "init_logit_bias": -10,
    "vision_cfg": {
        "image_size": 224,
        "timm_model_name": "vit_base_patch16_siglip_224",
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 60,
        "width": 32,
        "heads": 4,
        "layers": 2,
        "mlp_ratio": 3.7362,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
}


def _clip(**changes: Any) -> open_clip.CLIP:
    model = open_clip.CLIP(**TINY, **changes).eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
    return model


def _pairs() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 58, (3, 12))
    for row, length in zip(ids, (5, 12, 3), strict=True):
        row[length - 1] = 59
        row[length:] = 0
    return torch.randn(3, 3, 32, 32), ids


def _same(model: TwoTowers, peer: nn.Module) -> None:
    images, ids = _pairs()
    pair = model(images, ids)
    expected = peer.get_logits(images, ids)[0]
    torch.testing.assert_close(model.logits(pair.image, pair.text), expected, atol=1e-4, rtol=1e-4)


def _returns(path: Path, tensors: dict[str, Tensor], model: TwoTowers, source: Any) -> None:
    export_two_towers(model, path, source)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name].view(-1), tensor.reshape(-1)), name


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_folder_of_open_clip(tmp_path: Path, file: str, quick: bool) -> None:
    peer = _clip(quick_gelu=quick)
    state = peer.state_dict()
    if file.endswith("safetensors"):
        save_file(state, tmp_path / file)
    else:
        torch.save(state, tmp_path / file)
    said = {"model_cfg": {**TINY, "quick_gelu": quick}, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said))
    model, origin = load_two_towers(tmp_path)
    assert not model.training
    assert (origin.layout, origin.preprocessing["mean"]) == ("open_clip", [0.1, 0.2, 0.3])
    _same(model, peer)
    _returns(tmp_path / "back.safetensors", state, model, origin.source)


def test_open_clip_loads_what_is_exported(tmp_path: Path) -> None:
    peer = _clip()
    save_file(peer.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    model, _ = load_two_towers(tmp_path)
    export_two_towers(model, tmp_path / "out.safetensors")
    _clip().load_state_dict(load_file(tmp_path / "out.safetensors"))


def test_a_siglip_of_open_clip_whose_image_tower_is_timms(tmp_path: Path) -> None:
    vision = SIGLIP["vision_cfg"] | {"timm_model_name": "vit_base_patch16_siglip_224"}
    config = SIGLIP | {"embed_dim": 768, "vision_cfg": vision}
    peer = open_clip.CustomTextCLIP(**config).eval()
    save_file(peer.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**config, "custom_text": True}}))
    model, origin = load_two_towers(tmp_path)
    assert origin.layout == "open_clip-custom"
    assert model.sigmoid
    ids = torch.randint(0, 60, (2, 12))
    torch.testing.assert_close(model.encode_text(ids), peer.encode_text(ids, True), atol=1e-5, rtol=1e-4)
    _returns(tmp_path / "back.safetensors", peer.state_dict(), model, origin.source)


def _archive(peer: nn.Module, path: Path, how: str) -> dict[str, Tensor]:
    """A TorchScript archive as OpenAI's: half precision, and three sizes among the tensors."""
    open_clip.model.convert_weights_to_fp16(peer)
    for name, value in {"input_resolution": 32, "context_length": 12, "vocab_size": 60}.items():
        if hasattr(peer, name):
            delattr(peer, name)
        peer.register_buffer(name, torch.tensor(value))
    if how == "script":
        holder: Any = torch.jit.script(peer)
    else:
        images, ids = _pairs()
        holder = torch.jit.trace_module(
            peer.float(), {"encode_image": (images,), "encode_text": (ids,)}, check_trace=False
        )
    holder.save(str(path))
    return {name: tensor for name, tensor in torch.jit.load(str(path)).state_dict().items() if name != "attn_mask"}


@pytest.mark.parametrize("how", ["script", "trace"])
def test_an_archive_of_openai(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = _clip(quick_gelu=True)
    path = tmp_path / "model.pt"
    state = _archive(peer, path, how)
    assert (state["visual.proj"].dtype == torch.float16) == (how == "script")
    known = _small_preset()
    monkeypatch.setitem(PRESETS, "tiny", known)
    model, origin = load_two_towers(path)
    assert origin.layout == "openai"
    assert model.config == with_quick_gelu(known)
    _same(model, peer.float())
    _returns(tmp_path / "back.safetensors", state, model, origin.source)


def _small_preset() -> TwoTowersConfig:
    plain = PRESETS["ViT-B-32"]
    image = replace(plain.image, image=(32, 32), patch=8, dim=32, depth=2, heads=2, hidden=128)
    text = replace(plain.text, vocab=60, context=12, dim=32, depth=2, heads=4, embed=24)
    return replace(plain, image=image, text=text)


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_hugging_face(tmp_path: Path, kind: str) -> None:
    import transformers as hf

    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2}
    text = {**shape, "num_attention_heads": 4, "vocab_size": 60, "max_position_embeddings": 12}
    vision = {**shape, "num_attention_heads": 2, "patch_size": 8}
    square = {} if kind == "siglip2" else {"image_size": 32}
    square = {"num_patches": 16} if kind == "siglip2" else square
    names = {"clip": "CLIP", "siglip": "Siglip", "siglip2": "Siglip2"}
    config = getattr(hf, names[kind] + "Config")(text_config=text, vision_config={**vision, **square})
    peer = getattr(hf, names[kind] + "Model")(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    peer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    if kind == "clip":  # as older files have them
        tensors["text_model.embeddings.position_ids"] = torch.arange(12)[None]
        tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
        save_file(tensors, file, {"format": "pt"})
        peer = peer.half().float()
    model, origin = load_two_towers(tmp_path)
    images, ids = _pairs()
    given: dict[str, Any] = {"pixel_values": images}
    if kind == "siglip2":
        # (B, C, 4, 8, 4, 8) -> (B, 4 * 4, 8 * 8 * C)
        patches = images.unflatten(3, (4, 8)).unflatten(2, (4, 8)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        given["pixel_values"] = patches
        given["pixel_attention_mask"] = torch.ones(3, 16, dtype=torch.long)
        given["spatial_shapes"] = torch.full((3, 2), 4)
    expected = peer(input_ids=ids, **given)
    pair = model(images, ids)
    logits = model.logits(pair.image, pair.text)
    torch.testing.assert_close(logits, expected.logits_per_image, atol=1e-4, rtol=1e-4)
    _returns(tmp_path / "back.safetensors", tensors, model, origin.source)


@pytest.mark.parametrize("swin", [False, True])
def test_a_bundle(tmp_path: Path, swin: bool) -> None:
    config = _small_preset()
    if swin:
        image = SwinConfig(image=(32, 32), dim=8, depths=(1, 1), heads=(1, 2), windows=(4, 4), classes=0)
        config = replace(config, image=image)
    model = TwoTowers(config).eval()
    save_bundle(tmp_path / "bundle", model, Bundle("multimodal.TwoTowers", asdict(config)))
    again, origin = load_two_towers(tmp_path / "bundle")
    assert again.config == config
    assert origin.layout == "bundle"
    images, ids = _pairs()
    assert torch.equal(again(images, ids).image, model(images, ids).image)


def _broken(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(json.dumps(TINY))
    change(said)
    return said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["text_cfg"].update(layers="two"), "can't be followed"),
        (lambda c: c["text_cfg"].update(pool_type="first"), "pools texts by 'first'"),
        (lambda c: c["text_cfg"].update(hf_model_name="roberta-base"), "no CLIP or SigLIP"),
        (lambda c: c["vision_cfg"].update(layers=[3, 4, 6, 3]), "no CLIP or SigLIP"),
        (lambda c: c["vision_cfg"].update(timm_model_name="convnext"), "convnext"),
        (lambda c: c["vision_cfg"].update(head_width=0), "can't be followed"),
        (lambda c: c["text_cfg"].update(layers=3), "missing"),
        (lambda c: c["text_cfg"].update(vocab_size=10**15), "wrong"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    save_file(_clip().state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": _broken(change)}))
    with pytest.raises(InputError, match=message) as caught:
        load_two_towers(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_without_a_config_and_of_another_model(tmp_path: Path) -> None:
    save_file(_clip().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"no open_clip_config.json beside it"):
        load_two_towers(tmp_path / "a.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match="no CLIP or SigLIP"):
        load_two_towers(tmp_path / "b.safetensors")
    with pytest.raises(InputError, match="no two-tower layout 'x'"):
        export_two_towers(TwoTowers(_small_preset()), tmp_path / "c.safetensors", layout="x")


def test_open_clips_configs_give_the_presets() -> None:
    from multimodal.weights import _of_open_clip

    for name, preset in PRESETS.items():
        found = _of_open_clip(open_clip.get_model_config(name), Path(name))
        assert _comparable(found) == _comparable(preset), name


def _comparable(config: TwoTowersConfig) -> TwoTowersConfig:
    """Without what only the tokenizer or training looks at, and with defaults spelled out."""

    def full(part: Any) -> Any:
        return replace(part, hidden=4 * part.dim if part.hidden is None else part.hidden)

    text: TextConfig = replace(full(config.text), pad=0, eot=None)
    return replace(config, image=full(config.image), text=text, logit_scale=1.0)


def test_reading_an_archive_maps_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    _archive(_clip(), path, "script")
    assert read(path).tensors["visual.conv1.weight"].dtype == torch.float16
