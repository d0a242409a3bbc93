"""The reference: openai-whisper, with random or real weights, and our Whisper with the same weights."""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import whisper as openai_whisper
from safetensors.torch import load_file
from whisper.model import ModelDimensions

from audio.whisper import Whisper, WhisperConfig

Models = tuple[Whisper, openai_whisper.Whisper]

# openai-whisper's names -> ours
OURS = [
    (r"^(encoder\.conv\d\..*)$", r"\1"),
    (r"^encoder\.positional_embedding$", "encoder.positions.table"),
    (r"^encoder\.ln_post\.", "encoder.norm."),
    (r"^decoder\.token_embedding\.", "decoder.tokens."),
    (r"^decoder\.positional_embedding$", "decoder.positions.table"),
    (r"^decoder\.ln\.", "decoder.norm."),
    (r"\.attn_ln\.", ".attn.norm."),
    (r"\.cross_attn_ln\.", ".cross.norm."),
    (r"\.mlp_ln\.", ".mlp.norm."),
    (r"\.mlp\.0\.", ".mlp.fn.fc1."),
    (r"\.mlp\.2\.", ".mlp.fn.fc2."),
    (r"\.cross_attn\.", ".cross."),
    (r"\.(query|key|value)\.", lambda match: f".fn.{match[1][0]}.proj."),
    (r"\.(attn|cross)\.out\.", r".\1.fn.out."),
]

# Hugging Face's names -> openai-whisper's
OPENAI = [
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"\.self_attn\.", ".attn."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.([qkv])_proj\.", lambda match: {"q": ".query.", "k": ".key.", "v": ".value."}[match[1]]),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"embed_positions\.weight", "positional_embedding"),
    (r"embed_tokens", "token_embedding"),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
]


def renamed(state: dict[str, torch.Tensor], rules: list) -> dict[str, torch.Tensor]:
    result = {}
    for name, tensor in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        result[name] = tensor
    return result


def as_ours(reference: openai_whisper.Whisper) -> Whisper:
    dims = reference.dims
    model = Whisper(
        WhisperConfig(
            mels=dims.n_mels,
            vocab=dims.n_vocab,
            audio_context=dims.n_audio_ctx,
            audio_dim=dims.n_audio_state,
            audio_heads=dims.n_audio_head,
            audio_layers=dims.n_audio_layer,
            text_context=dims.n_text_ctx,
            text_dim=dims.n_text_state,
            text_heads=dims.n_text_head,
            text_layers=dims.n_text_layer,
        )
    )
    model.load_state_dict(renamed(reference.state_dict(), OURS))
    return model.eval()


def make_random_models(vocab: int, seed: int, text_context: int = 80) -> Models:
    """A small model of random weights, large enough for its choices to vary; a short context keeps its babble short."""
    torch.manual_seed(seed)
    dims = ModelDimensions(80, 1500, 64, 2, 2, vocab, text_context, 64, 2, 2)
    reference = openai_whisper.Whisper(dims).eval()
    for name, parameter in reference.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if "ln" not in name and parameter.ndim > 1 else 0.5)
    return as_ours(reference), reference


@pytest.fixture(scope="session")
def random_models() -> Callable[..., Models]:
    """``random_models(vocab, seed)``: ours and openai-whisper's."""
    return functools.cache(make_random_models)


@pytest.fixture(scope="session")
def tiny_en(assets: Path) -> Models:
    """The real tiny.en, float32: ours and openai-whisper's."""
    folder = assets / "weights" / "whisper-tiny.en"
    config = json.loads((folder / "config.json").read_text())
    dims = ModelDimensions(
        n_mels=config["num_mel_bins"],
        n_audio_ctx=config["max_source_positions"],
        n_audio_state=config["d_model"],
        n_audio_head=config["encoder_attention_heads"],
        n_audio_layer=config["encoder_layers"],
        n_vocab=config["vocab_size"],
        n_text_ctx=config["max_target_positions"],
        n_text_state=config["d_model"],
        n_text_head=config["decoder_attention_heads"],
        n_text_layer=config["decoder_layers"],
    )
    reference = openai_whisper.Whisper(dims)
    state = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    reference.load_state_dict(renamed(state, OPENAI))
    return as_ours(reference.eval()), reference
