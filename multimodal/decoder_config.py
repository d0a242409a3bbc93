"""What the config.json of a language model on Hugging Face says, as a :class:`DecoderConfig`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.nn.scaling import Linear, Llama3, Scaling, Yarn
from core.weights.files import section
from core.weights.published import pick
from multimodal.decoder import DecoderConfig, Experts

__all__ = ["KINDS", "config_of_hugging_face"]

KINDS = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "gpt2")
"""The model types that are known."""

_SIZES = {
    "vocab": "vocab_size",
    "dim": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
}
_THETA = {"mixtral": 1e6}  # what a file may leave out
_CONTEXT = {"llama": 2048, "qwen2": 32_768, "qwen3": 32_768, "qwen3_moe": 32_768}


def config_of_hugging_face(said: Mapping[str, Any], path: Path) -> DecoderConfig:
    """Return the shape of a model.

    Args:
        said: the contents of its config.json; of a vision-language model the part about the text.
        path: of the file, for messages.

    Raises:
        InputError: if the model is of a kind that is not known, or has something that is not supported.
    """
    kind = said.get("model_type")
    if kind not in KINDS:
        raise InputError(f"{path} is of the type {kind!r}: expected one of {', '.join(KINDS)}")
    if kind == "gpt2":
        return _of_gpt2(said, path)
    act = said.get("hidden_act", "silu")
    if act not in ("silu", "swish"):
        raise InputError(f"{path} has the activation {act!r}: {kind} is known with silu only")
    sizes = pick(said, _SIZES, path, "language model")
    qwen3 = kind.startswith("qwen3")
    bias = "qkv" if kind == "qwen2" else "qkvo" if said.get("attention_bias") else ""
    if said.get("mlp_bias") and kind != "llama":
        raise InputError(f"{path} has mlp_bias, which a {kind} has not: expected false")
    context = int(said.get("max_position_embeddings", _CONTEXT.get(kind, 131_072)))
    theta, scaling = _rotary(said, kind, context, path)
    window, layers = _window(said, kind, sizes["depth"], path)
    return DecoderConfig(
        **sizes,
        context=context,
        kv_heads=said.get("num_key_value_heads"),
        head_dim=said.get("head_dim") or (128 if qwen3 else None),
        hidden=int(said.get("intermediate_size", 4 * sizes["dim"])),
        eps=float(said.get("rms_norm_eps", 1e-5 if "mistral" in kind or kind == "mixtral" else 1e-6)),
        bias=bias,
        mlp_bias=bool(said.get("mlp_bias", False)),
        theta=theta,
        scaling=scaling,
        qk_norm=qwen3,
        window=window,
        window_layers=layers,
        tied=bool(said.get("tie_word_embeddings", False)),
        experts=_experts(said, kind, path),
    )


def _of_gpt2(said: Mapping[str, Any], path: Path) -> DecoderConfig:
    act = said.get("activation_function", "gelu_new")
    if act not in ("gelu_new", "gelu_pytorch_tanh"):
        raise InputError(f"{path} has the activation {act!r}: gpt2 is known with gelu_new only")
    if not said.get("scale_attn_weights", True) or said.get("scale_attn_by_inverse_layer_idx"):
        raise InputError(f"{path} scales its attention in a way that is not known: expected 1 / sqrt(head width)")
    names = {"vocab": "vocab_size", "dim": "n_embd", "depth": "n_layer", "heads": "n_head", "context": "n_positions"}
    defaults = {"vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
    return DecoderConfig(
        **pick({**defaults, **said}, names, path, "GPT-2"),
        kv_heads=None,
        hidden=said.get("n_inner"),
        norm="layer",
        eps=float(said.get("layer_norm_epsilon", 1e-5)),
        mlp="gelu tanh",
        mlp_bias=True,
        bias="qkvo",
        positions="learned",
        tied=bool(said.get("tie_word_embeddings", True)),
    )


def _rotary(said: Mapping[str, Any], kind: str, context: int, path: Path) -> tuple[float, Scaling | None]:
    """Return the base and the scaling; files since transformers 5 have both in ``rope_parameters``."""
    given = {**section(said, "rope_scaling"), **section(said, "rope_parameters")}
    theta = float(given.get("rope_theta", said.get("rope_theta", _THETA.get(kind, 1e4))))
    if float(given.get("partial_rotary_factor", said.get("partial_rotary_factor", 1.0))) != 1.0:
        raise InputError(f"{path} turns a part of each head only (partial_rotary_factor), which is not supported")
    how = given.get("rope_type", given.get("type", "default"))
    if how == "default":
        return theta, None
    if how not in ("linear", "yarn", "llama3"):
        raise InputError(f"{path} scales its positions by {how!r}: known are linear, yarn and llama3")
    try:
        return theta, _scaling(how, given, context)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} describes its {how} scaling of positions incompletely: {error!r}") from error


def _scaling(how: str, given: Mapping[str, Any], context: int) -> Scaling:
    factor = float(given["factor"])
    if how == "linear":
        return Linear(factor)
    original = int(given.get("original_max_position_embeddings") or context)
    if how == "llama3":
        return Llama3(factor, original, float(given["low_freq_factor"]), float(given["high_freq_factor"]))
    if given.get("truncate", True) is False:
        raise ValueError("truncate must not be false")
    magnitude = given.get("attention_factor")
    if magnitude is None and given.get("mscale") and given.get("mscale_all_dim"):
        grown = 0.1 * math.log(max(factor, 1.0))
        magnitude = (grown * given["mscale"] + 1) / (grown * given["mscale_all_dim"] + 1)
    return Yarn(
        factor,
        original,
        fast=float(given.get("beta_fast") or 32),
        slow=float(given.get("beta_slow") or 1),
        magnitude=None if magnitude is None else float(magnitude),
    )


def _window(said: Mapping[str, Any], kind: str, depth: int, path: Path) -> tuple[int | None, tuple[int, ...] | None]:
    """Return the sliding window and the blocks that have it; None for all of them."""
    size = said.get("sliding_window")
    if kind == "llama" or size is None or (kind.startswith("qwen") and not said.get("use_sliding_window", False)):
        return None, None
    if not kind.startswith("qwen"):
        return int(size), None
    types = said.get("layer_types")
    if kind == "qwen3_moe":  # all of its blocks have it
        return int(size), None
    if types is None:
        layers = tuple(range(min(int(said.get("max_window_layers", 28)), depth), depth))
    elif isinstance(types, list) and len(types) == depth and set(types) <= {"full_attention", "sliding_attention"}:
        layers = tuple(number for number, type_ in enumerate(types) if type_ == "sliding_attention")
    else:
        raise InputError(f"{path} has layer_types that are not known: expected {depth} of full or sliding_attention")
    return (int(size), layers) if layers else (None, None)


def _experts(said: Mapping[str, Any], kind: str, path: Path) -> Experts | None:
    if kind == "mixtral":
        found = pick(
            said,
            {"count": "num_local_experts", "active": "num_experts_per_tok", "hidden": "intermediate_size"},
            path,
            "Mixtral",
        )
        return Experts(**found)
    if kind != "qwen3_moe":
        return None
    if said.get("mlp_only_layers") or said.get("decoder_sparse_step", 1) != 1:
        raise InputError(f"{path} has blocks without experts between those with, which is not supported")
    names = {"count": "num_experts", "active": "num_experts_per_tok", "hidden": "moe_intermediate_size"}
    if "num_experts" not in said and "num_local_experts" in said:
        names["count"] = "num_local_experts"
    return Experts(**pick(said, names, path, "Qwen3-MoE"), normalise=bool(said.get("norm_topk_prob", False)))
