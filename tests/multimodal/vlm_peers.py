"""Small vision-language models of transformers with random weights, and ours made of their files."""

from pathlib import Path
from typing import Any

import pytest
import torch

from multimodal.vlm.weights import load_vlm

TEXT = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
IMAGE = 49


def llava(**changes: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    vision = {"model_type": "clip_vision_model", **VISION}
    config = transformers.LlavaConfig(vision_config=vision, text_config=TEXT, image_token_index=IMAGE, **changes)
    return _random(transformers.LlavaForConditionalGeneration(config))


def idefics3(smol: bool = False, **changes: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    kind = "SmolVLM" if smol else "Idefics3"
    config = getattr(transformers, f"{kind}Config")(
        vision_config=VISION, text_config=TEXT, image_token_id=IMAGE, scale_factor=2, **changes
    )
    return _random(getattr(transformers, f"{kind}ForConditionalGeneration")(config))


def idefics(**changes: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    vision = {name: value for name, value in VISION.items() if name != "hidden_size"}
    perceiver = {
        "use_resampler": True,
        "resampler_n_latents": 3,
        "resampler_depth": 2,
        "resampler_n_heads": 2,
        "resampler_head_dim": 12,
        "qk_layer_norms_perceiver": True,
    }
    text = {name: value for name, value in TEXT.items() if name not in ("model_type", "num_key_value_heads")}
    text |= {"vocab_size": 48, "additional_vocab_size": 2, "num_hidden_layers": 4, "cross_layer_interval": 2}
    settings = {"qk_layer_norms": True, "use_resampler": True, "perceiver_config": perceiver, **text, **changes}
    config = transformers.IdeficsConfig(
        vision_config={"embed_dim": 16, **vision}, freeze_text_layers=False, freeze_vision_layers=False, **settings
    )
    return _random(transformers.IdeficsForVisionText2Text(config))


def ours(theirs: Any, folder: Path) -> tuple[Any, Any]:
    """Our model of their weights, and where it came from."""
    theirs.save_pretrained(folder)
    return load_vlm(folder)


def _random(model: Any) -> Any:
    """Weights large enough that everything has a say, gates open."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3 if parameter.ndim > 1 else 0.1)
            if "norm" in name and name.endswith("weight"):
                parameter += 1
            if "alpha" in name:
                parameter += 0.8
    return model.eval()
