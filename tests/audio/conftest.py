"""The reference: openai-whisper, with random or real weights, beside our Whisper with the same weights."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import whisper as openai_whisper
from whisper.model import ModelDimensions

from audio.weights import OPENAI, load_whisper
from audio.whisper import Whisper, WhisperConfig
from core.weights import load_into

Models = tuple[Whisper, openai_whisper.Whisper]


def dimensions(config: WhisperConfig) -> ModelDimensions:
    return ModelDimensions(
        n_mels=config.mels,
        n_audio_ctx=config.audio_context,
        n_audio_state=config.audio_dim,
        n_audio_head=config.audio_heads,
        n_audio_layer=config.audio_layers,
        n_vocab=config.vocab,
        n_text_ctx=config.text_context,
        n_text_state=config.text_dim,
        n_text_head=config.text_heads,
        n_text_layer=config.text_layers,
    )


@functools.cache
def make_random_models(vocab: int, seed: int, std: float = 0.3) -> Models:
    """Small models of random weights whose choices vary; a short context keeps their babble short.

    With a lower `std` they look at much at once: at 0.3 some positions get no weight at all.
    """
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab=vocab,
        text_context=80,
        audio_dim=64,
        audio_heads=2,
        audio_layers=2,
        text_dim=64,
        text_heads=2,
        text_layers=2,
    )
    reference = openai_whisper.Whisper(dimensions(config)).eval()
    for name, parameter in reference.named_parameters():
        torch.nn.init.normal_(parameter, std=std if "ln" not in name and parameter.ndim > 1 else 0.5)
    model = Whisper(config).eval()
    load_into(model, OPENAI, reference.state_dict())
    return model, reference


@pytest.fixture(scope="session")
def random_models() -> Callable[..., Models]:
    """``random_models(vocab, seed[, std])``: ours and openai-whisper's."""
    return make_random_models


def remembering(encode: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Encodes each window once, however many tests hear it: half of what openai-whisper takes for a clip."""
    heard: dict[bytes, torch.Tensor] = {}

    def remembered(mel: torch.Tensor) -> torch.Tensor:
        name = hashlib.blake2b(mel.numpy().tobytes()).digest()
        if name not in heard:
            heard[name] = encode(mel)
        return heard[name]

    return remembered


@pytest.fixture(scope="session")
def tiny_en(assets: Path) -> Models:
    """The real tiny.en, float32: ours, loaded as a user would, and openai-whisper's, which aligns as its loader says.

    What openai-whisper's encoder makes of a window is remembered.
    """
    model, _ = load_whisper(assets / "weights" / "whisper-tiny.en")
    reference = openai_whisper.Whisper(dimensions(model.config)).eval()
    reference.load_state_dict(OPENAI.export(model.state_dict()))
    reference.set_alignment_heads(openai_whisper._ALIGNMENT_HEADS["tiny.en"])
    reference.encoder.forward = remembering(reference.encoder.forward)
    return model.eval(), reference
