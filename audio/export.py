"""A Whisper as others read it: a folder that transformers opens, or a file with the names of OpenAI or CTranslate2."""

import json
from pathlib import Path

from audio.tokenizer import Tokenizer
from audio.weights import export_whisper
from audio.whisper import Whisper
from core.weights import Source

__all__ = ["hugging_face_config", "write_whisper"]


def write_whisper(model: Whisper, path: Path, layout: str, source: Source | None = None) -> None:
    """Write a Whisper's weights; for Hugging Face also ``config.json`` beside them, which they can't be read without.

    Args:
        model: the model.
        path: of the file of weights.
        layout: ``"huggingface"``, ``"openai"`` or ``"ctranslate2"``.
        source: from :func:`audio.weights.load_whisper`, if the weights came in this layout.

    Raises:
        InputError: for another layout.
    """
    export_whisper(model, path, source, layout)
    if layout == "huggingface":
        text = json.dumps(hugging_face_config(model), indent=2) + "\n"
        path.with_name("config.json").write_text(text, encoding="utf-8")


def hugging_face_config(model: Whisper) -> dict[str, object]:
    """What transformers' ``WhisperConfig`` needs to know of a model."""
    config, tokenizer = model.config, Tokenizer.for_vocab(model.config.vocab)
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": config.vocab,
        "num_mel_bins": config.mels,
        "d_model": config.audio_dim,
        "encoder_layers": config.audio_layers,
        "encoder_attention_heads": config.audio_heads,
        "encoder_ffn_dim": 4 * config.audio_dim,
        "decoder_layers": config.text_layers,
        "decoder_attention_heads": config.text_heads,
        "decoder_ffn_dim": 4 * config.text_dim,
        "max_source_positions": config.audio_context,
        "max_target_positions": config.text_context,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "decoder_start_token_id": tokenizer.sot,
        "bos_token_id": tokenizer.eot,
        "eos_token_id": tokenizer.eot,
        "pad_token_id": tokenizer.eot,
        "is_encoder_decoder": True,
    }
