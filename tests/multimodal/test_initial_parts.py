"""What trainings of models that see begin with: parts of published models, which then give what transformers gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import vlm_peers as peers
from decoder_peers import reference

from core.errors import InputError
from multimodal.decoder import Decoder, DecoderConfig
from multimodal.decoder_weights import load_decoder
from multimodal.tasks.initial import Parts, Released
from multimodal.vlm.config import Gated, GatedModelConfig, Projected, ProjectedConfig, ResamplerConfig
from multimodal.vlm.gated import GatedConfig
from vision.vit import ViTConfig

EYE = ViTConfig((16, 16), 4, patch_bias=False, dim=16, depth=3, heads=2, classes=0, pre_norm=True, eps=1e-5)


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A language model of transformers, and its folder."""
    folder = tmp_path_factory.mktemp("language")
    theirs = reference("llama")
    theirs.save_pretrained(folder)
    return theirs, folder


def shape(folder: Path, more: int = 0) -> DecoderConfig:
    config = load_decoder(folder)[0].config
    return replace(config, vocab=config.vocab + more)


def test_an_eye_and_a_language_model(language: tuple[Any, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, folder = language
    vision = {**peers.VISION, "intermediate_size": 64, "projection_dim": 8, "hidden_act": "gelu"}
    text = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 99,
    }
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)
    ).eval()
    clip.save_pretrained(tmp_path)
    decoder = shape(folder, more=3)
    model = Projected(ProjectedConfig(EYE, decoder, decoder.vocab - 1, layers=(-2,))).eval()
    projector = {name: tensor.clone() for name, tensor in model.projector.state_dict().items()}
    Parts(decoder=str(folder), eye=str(tmp_path))(model)
    pixels, ids = torch.randn(2, 3, 16, 16), torch.randint(decoder.vocab - 3, (2, 7))
    with torch.no_grad():
        states = clip.vision_model(pixels, output_hidden_states=True).hidden_states
        torch.testing.assert_close(model.eye(pixels), states[-2][:, 1:], rtol=1e-4, atol=1e-5)
        logits = model(ids).x
        torch.testing.assert_close(logits[..., :-3], theirs(ids).logits, rtol=1e-4, atol=1e-4)
        # a token that comes behind is as likely as the others are in the mean of their logits
        mean = logits[..., :-3].mean(-1, keepdim=True).expand(-1, -1, 3)
        torch.testing.assert_close(logits[..., -3:], mean, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(projector[name], tensor) for name, tensor in model.projector.state_dict().items())


def test_parts_of_a_model_that_sees(tmp_path: Path) -> None:
    theirs, _ = peers.ours(peers.llava(), tmp_path)
    torch.manual_seed(0)
    model = Projected(theirs.config)
    Parts(decoder=str(tmp_path), eye=str(tmp_path))(model)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor) != name.startswith("projector."), name
    Released(str(tmp_path))(model)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in theirs.state_dict().items())


def test_a_model_that_looks_between_its_blocks_begins_as_its_language_model(language: tuple[Any, Path]) -> None:
    theirs, folder = language
    resampler = ResamplerConfig(depth=1, heads=2, head_dim=8, latents=3)
    gates = GatedConfig(every=1, memory_dim=16)
    model = Gated(GatedModelConfig(EYE, shape(folder), 60, gates, resampler)).eval()
    Parts(decoder=str(folder))(model)
    ids = torch.randint(60, (2, 7))
    ids[:, 2] = 60
    with torch.no_grad():
        found = model(ids, images=torch.randn(2, 3, 16, 16)).x
        torch.testing.assert_close(found, theirs(ids).logits, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_told(language: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = language
    with pytest.raises(InputError, match="another shape than the model"):
        Released(str(folder))(Decoder(replace(shape(folder), dim=16)))
    with pytest.raises(InputError, match="another shape than the model"):
        Released(str(folder))(Decoder(replace(shape(folder), vocab=40)))
    with pytest.raises(InputError, match="holds no language model"):
        Released(str(tmp_path))(Decoder(shape(folder)))
    with pytest.raises(InputError, match="at least one of the parts"):
        Parts()
    with pytest.raises(InputError, match="has no eye"):
        Parts(decoder=str(folder))(Decoder(shape(folder)))
