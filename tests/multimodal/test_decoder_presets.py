"""The presets have as many parameters as the published models."""

import pytest
import torch

from core.errors import InputError
from multimodal.decoder_presets import DECODERS, decoder

PUBLISHED = {
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Llama-3.1-8B": 8_030_261_248,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Mixtral-8x7B-v0.1": 46_702_792_704,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


@pytest.mark.parametrize("name", DECODERS)
def test_size(name: str) -> None:
    with torch.device("meta"):
        model = decoder(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


def test_unknown() -> None:
    with pytest.raises(InputError, match="SmolLM2-135M"):
        decoder("SmolLM3")
