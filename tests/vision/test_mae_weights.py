"""Masked autoencoders in and out: Hugging Face (published and as transformers 5 writes), Facebook, bundles."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_mae import CONFIG, TINY, gap, pair, shaken, to_published
from torch import Tensor

from core.errors import InputError
from core.weights import Bundle, save_bundle
from vision.mae import MAEConfig, MaskedAutoencoder
from vision.mae_weights import export_mae, facebook, load_mae
from vision.weights import load_vit


def same_bytes(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.fixture(scope="module")
def peer() -> Any:
    return pair(CONFIG, torch.float32)[0]


@pytest.mark.parametrize("half", [False, True])
def test_hugging_face_there_and_back(tmp_path: Path, peer: Any, half: bool) -> None:
    state = {to_published(name): w.half() if half else w for name, w in peer.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    peer.config.save_pretrained(tmp_path)
    model, info = load_mae(tmp_path)
    assert model.config == CONFIG
    assert info.layout == "huggingface-mae"
    export_mae(model, tmp_path / "out.safetensors", info.source)
    assert same_bytes(load_file(tmp_path / "out.safetensors"), state)


def test_what_transformers_5_writes(tmp_path: Path, peer: Any) -> None:
    peer.save_pretrained(tmp_path)
    model, info = load_mae(tmp_path)
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    with torch.no_grad():
        found = model(images, noise)
        logits = peer(images, noise=noise).logits
    assert gap(found.predicted, logits.gather(1, found.masked[..., None].expand(-1, -1, 192))) < 1e-5
    export_mae(model, tmp_path / "out.safetensors", info.source)
    assert same_bytes(load_file(tmp_path / "out.safetensors"), load_file(tmp_path / "model.safetensors"))


def test_what_we_write_is_read_by_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = shaken(MaskedAutoencoder(CONFIG))
    export_mae(model, tmp_path / "model.safetensors")
    transformers.ViTMAEConfig(**TINY, norm_pix_loss=True).save_pretrained(tmp_path)
    other, told = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    with torch.no_grad():
        found, logits = model(images, noise), other.eval()(images, noise=noise).logits
    assert gap(found.predicted, logits.gather(1, found.masked[..., None].expand(-1, -1, 192))) < 1e-5


def test_facebook_there_and_back(tmp_path: Path) -> None:
    model = shaken(MaskedAutoencoder(CONFIG))
    state = facebook(CONFIG).export(model.state_dict())
    # the names of models_mae.py
    assert {"pos_embed", "decoder_pos_embed", "mask_token", "decoder_embed.weight", "decoder_pred.bias"} <= state.keys()
    assert state["blocks.1.attn.qkv.weight"].shape == (96, 32)
    assert state["decoder_blocks.0.attn.qkv.bias"].shape == (48,)
    assert state["patch_embed.proj.weight"].shape == (32, 3, 8, 8)
    torch.save({"model": state, "epoch": 3}, tmp_path / "mae.pth")
    again, info = load_mae(tmp_path / "mae.pth", CONFIG)
    assert info.layout == "facebook-mae"
    assert same_bytes(dict(again.state_dict()), dict(model.state_dict()))
    export_mae(again, tmp_path / "out.safetensors", info.source)
    assert same_bytes(load_file(tmp_path / "out.safetensors"), state)


def test_facebooks_encoder_alone_is_a_vit(tmp_path: Path) -> None:
    model = shaken(MaskedAutoencoder(CONFIG))
    state = facebook(CONFIG).export(model.state_dict())
    alone = {n: w for n, w in state.items() if not n.startswith(("decoder", "mask_token"))}
    torch.save({"model": alone}, tmp_path / "mae_pretrain.pth")
    vit, _ = load_vit(tmp_path / "mae_pretrain.pth", CONFIG.encoder)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(vit(images), model.encoder(images))
    with pytest.raises(InputError, match="no masked autoencoder with its decoder"):
        load_mae(tmp_path / "mae_pretrain.pth")


def test_a_bundle_is_enough(tmp_path: Path) -> None:
    model = shaken(MaskedAutoencoder(CONFIG))
    save_bundle(tmp_path / "mae", model, Bundle("vision.MaskedAutoencoder", asdict(CONFIG)))
    again, info = load_mae(tmp_path / "mae")
    assert again.config == CONFIG
    assert info.layout == "bundle"
    assert same_bytes(dict(again.state_dict()), dict(model.state_dict()))


def test_misfits_are_refused(tmp_path: Path) -> None:
    state = facebook(CONFIG).export(MaskedAutoencoder(CONFIG).state_dict())
    save_file(state, tmp_path / "mae.safetensors")
    with pytest.raises(InputError, match="none of the public sizes"):
        load_mae(tmp_path / "mae.safetensors")
    save_file(state | {"stray": torch.zeros(1)}, tmp_path / "mae.safetensors")
    with pytest.raises(InputError, match="unexpected: stray"):
        load_mae(tmp_path / "mae.safetensors", CONFIG)
    with pytest.raises(InputError, match=r"wrong: .*expected"):
        load_mae(tmp_path / "mae.safetensors", MAEConfig(CONFIG.encoder, dim=32, depth=2, heads=2))
    with pytest.raises(InputError, match="no MAE layout 'timm'"):
        export_mae(MaskedAutoencoder(CONFIG), tmp_path / "x.safetensors", layout="timm")
