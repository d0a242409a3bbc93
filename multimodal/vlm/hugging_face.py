"""What the config.json of a vision-language model on Hugging Face says, as a config of ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.weights.files import section
from multimodal.decoder_config import config_of_hugging_face as decoder_of
from multimodal.vlm.config import GatedModelConfig, ProjectedConfig, ResamplerConfig
from multimodal.vlm.gated import GatedConfig
from vision.vit import ViTConfig

__all__ = ["KINDS", "vlm_config"]

KINDS = ("llava", "idefics3", "smolvlm", "idefics")
"""The model types that are known."""

_ACTS: dict[str, Any] = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu tanh", "quick_gelu": "quick gelu"}
# what files leave out, because it is as in transformers' classes
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
_CLIP = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_SIGLIP = {**_CLIP, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_IDEFICS3 = {**_SIGLIP, "hidden_size": 1152, "num_attention_heads": 16, "patch_size": 32}
_IDEFICS = {
    **_CLIP,
    "embed_dim": 768,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "hidden_act": "gelu",
}


def vlm_config(said: Mapping[str, Any], path: Path) -> ProjectedConfig | GatedModelConfig:
    """Return the shape of a model.

    Args:
        said: the contents of its config.json.
        path: of the file, for messages.

    Raises:
        InputError: if the model is of a kind that is not known, or has something that is not supported.
    """
    kind = said.get("model_type")
    if kind not in KINDS:
        raise InputError(f"{path} is of the type {kind!r}: expected one of {', '.join(KINDS)}")
    try:
        if kind == "llava":
            return _llava(said, path)
        return _idefics(said, path) if kind == "idefics" else _idefics3(said, path)
    # a config can hold anything where a number should be
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} can't be followed: {error}") from error


def _llava(said: Mapping[str, Any], path: Path) -> ProjectedConfig:
    if said.get("projector_hidden_act", "gelu") != "gelu":
        raise InputError(f"{path} has the projector {said['projector_hidden_act']!r}: known is gelu")
    vision = section(said, "vision_config")
    kind = vision.get("model_type", "clip_vision_model")
    if kind not in ("clip_vision_model", "siglip_vision_model"):
        raise InputError(f"{path} has an eye of the type {kind!r}: known are clip_vision_model and siglip_vision_model")
    layers = said.get("vision_feature_layer", -2)
    strategy = said.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise InputError(f"{path} selects features by {strategy!r}: known are default and full")
    clip = kind == "clip_vision_model"
    return ProjectedConfig(
        _vit({**(_CLIP if clip else _SIGLIP), **vision}, path, clip, "cls" if clip else "map"),
        decoder_of(_language(said), path),
        int(said.get("image_token_index", said.get("image_token_id", 32_000))),
        layers=tuple(layers) if isinstance(layers, list) else (int(layers),),
        prefix=strategy == "full",
        projector_bias=bool(said.get("multimodal_projector_bias", True)),
    )


def _idefics3(said: Mapping[str, Any], path: Path) -> ProjectedConfig:
    return ProjectedConfig(
        _vit({**_IDEFICS3, **section(said, "vision_config")}, path, False, "normed mean"),
        decoder_of(_language(said), path),
        int(said.get("image_token_id", 128_257)),
        projector="shuffle",
        scale=int(said.get("scale_factor", 2)),
    )


def _idefics(said: Mapping[str, Any], path: Path) -> GatedModelConfig:
    if said.get("tie_word_embeddings"):
        raise InputError(f"{path} has tied embeddings, which an Idefics has not: expected false")
    vision = {**_IDEFICS, **section(said, "vision_config")}
    seen = section(said, "perceiver_config")
    added, vocab = int(said.get("additional_vocab_size", 0)), int(said.get("vocab_size", 32_000))
    language = {**_LLAMA, **said, "model_type": "llama", "vocab_size": vocab + added}
    every = int(said.get("cross_layer_interval", 1))
    if every < 1 or language["num_hidden_layers"] % every:
        raise InputError(f"{path} looks before every {every} of {language['num_hidden_layers']} blocks: not a divisor")
    gates = GatedConfig(
        every,
        int(vision["embed_dim"]),
        bool(said.get("qk_layer_norms", False)),
        alpha="each" if said.get("alpha_type", "float") == "vector" else "one",
    )
    resampler = ResamplerConfig(
        int(seen.get("resampler_depth", 6)),
        int(seen.get("resampler_n_heads", 16)),
        int(seen.get("resampler_head_dim", 96)),
        int(seen.get("resampler_n_latents", 64)),
        qk_norm=bool(seen.get("qk_layer_norms_perceiver", False)),
    )
    return GatedModelConfig(
        _vit({**vision, "hidden_size": vision["embed_dim"]}, path, True, "cls"),
        decoder_of(language, path),
        # the added tokens are the fence and <image>, in this order
        int(said.get("image_token_id", vocab + added - 1)),
        gates,
        resampler if said.get("use_resampler", False) else None,
        added,
    )


def _language(said: Mapping[str, Any]) -> dict[str, Any]:
    text = {**_LLAMA, **section(said, "text_config")}
    return {**text, "tie_word_embeddings": bool(said.get("tie_word_embeddings") or text.get("tie_word_embeddings"))}


def _vit(said: Mapping[str, Any], path: Path, clip: bool, pool: Any) -> ViTConfig:
    act, side, patch = str(said["hidden_act"]), int(said["image_size"]), int(said["patch_size"])
    if act not in _ACTS:
        raise InputError(f"{path} has an eye with the activation {act!r}: known are {', '.join(_ACTS)}")
    if side < patch:
        raise InputError(f"{path} has an eye for {side} pixels in patches of {patch}: expected smaller patches")
    whole = side // patch * patch  # the rest at the edges isn't seen
    return ViTConfig(
        image=(whole, whole),
        patch=patch,
        patch_bias=not clip,
        channels=int(said["num_channels"]),
        dim=int(said["hidden_size"]),
        depth=int(said["num_hidden_layers"]),
        heads=int(said["num_attention_heads"]),
        hidden=int(said["intermediate_size"]),
        mlp=_ACTS[act],
        classes=0,
        pool=pool,
        cls_token=clip,
        positions="all" if clip else "patches",
        pre_norm=clip,
        eps=float(said["layer_norm_eps"]),
    )
