"""The public sizes of decoder language models, by the names of the Hub."""

from dataclasses import replace
from typing import Any

from core.errors import InputError
from core.nn.scaling import Llama3
from multimodal.decoder import Decoder, DecoderConfig, Experts

__all__ = ["DECODERS", "decoder"]

_SMOLLM2 = DecoderConfig()
_LLAMA = DecoderConfig(
    vocab=128_256, context=131_072, dim=4096, depth=32, heads=32, kv_heads=8, hidden=14_336, theta=500_000.0,
    scaling=Llama3(8.0, 8192), tied=False,
)  # fmt: skip
_MISTRAL = replace(_LLAMA, vocab=32_768, context=32_768, theta=1e6, scaling=None)
_QWEN2 = DecoderConfig(
    vocab=151_936, context=32_768, dim=896, depth=24, heads=14, kv_heads=2, hidden=4864, eps=1e-6, bias="qkv", theta=1e6
)
_QWEN3 = replace(
    _QWEN2, context=40_960, dim=1024, depth=28, heads=16, kv_heads=8, head_dim=128, hidden=3072, bias="", qk_norm=True
)
_GPT2 = DecoderConfig(
    vocab=50_257, context=1024, dim=768, depth=12, heads=12, kv_heads=None, hidden=None, norm="layer", mlp="gelu tanh",
    mlp_bias=True, bias="qkvo", positions="learned",
)  # fmt: skip

DECODERS: dict[str, DecoderConfig] = {
    "SmolLM2-135M": _SMOLLM2,
    "SmolLM2-360M": replace(_SMOLLM2, dim=960, depth=32, heads=15, kv_heads=5, hidden=2560),
    "SmolLM2-1.7B": replace(_SMOLLM2, dim=2048, depth=24, heads=32, kv_heads=32, hidden=8192, theta=130_000.0),
    "Llama-3.2-1B": replace(_LLAMA, dim=2048, depth=16, hidden=8192, scaling=Llama3(32.0, 8192), tied=True),
    "Llama-3.2-3B": replace(_LLAMA, dim=3072, depth=28, heads=24, hidden=8192, scaling=Llama3(32.0, 8192), tied=True),
    "Llama-3.1-8B": _LLAMA,
    "Mistral-7B-v0.1": replace(_MISTRAL, vocab=32_000, theta=1e4, window=4096),
    "Mistral-7B-v0.3": _MISTRAL,
    "Mixtral-8x7B-v0.1": replace(_MISTRAL, vocab=32_000, experts=Experts(8, 2, 14_336)),
    "Qwen2.5-0.5B": _QWEN2,
    "Qwen2.5-1.5B": replace(_QWEN2, dim=1536, depth=28, heads=12, hidden=8960),
    "Qwen3-0.6B": _QWEN3,
    "Qwen3-1.7B": replace(_QWEN3, dim=2048, hidden=6144),
    "Qwen3-4B": replace(_QWEN3, dim=2560, depth=36, heads=32, hidden=9728),
    "Qwen3-8B": replace(_QWEN3, dim=4096, depth=36, heads=32, hidden=12_288, tied=False),
    "gpt2": _GPT2,
    "gpt2-medium": replace(_GPT2, dim=1024, depth=24, heads=16),
    "gpt2-large": replace(_GPT2, dim=1280, depth=36, heads=20),
    "gpt2-xl": replace(_GPT2, dim=1600, depth=48, heads=25),
}
"""The shapes."""


def decoder(name: str, **changes: Any) -> Decoder:
    """Build the preset ``name`` with random weights, with some fields of :class:`DecoderConfig` changed.

    Raises:
        InputError: if there is no such preset.
    """
    if name not in DECODERS:
        raise InputError(f"no decoder preset {name!r}: choose one of {', '.join(DECODERS)}")
    return Decoder(replace(DECODERS[name], **changes))
