"""What the weights of LLaVA, Idefics3, SmolVLM and Idefics-1 are called in Hugging Face's files."""

from typing import Any

import torch

from core.weights import Fixed, Reshape, Table, Tied, nested
from multimodal.decoder_names import inner_rules
from multimodal.resampler import IDEFICS
from multimodal.vlm.config import GatedModelConfig, ProjectedConfig
from vision.names import image_tower

__all__ = ["idefics", "idefics3", "llava"]

LLAVA = {
    "": ("vision_tower.", "multi_modal_projector.", "language_model.model.", "language_model.lm_head.weight"),
    "model.": ("model.vision_tower.", "model.multi_modal_projector.", "model.language_model.", "lm_head.weight"),
}
"""Beginnings of LLaVA's names: as files have them, and as transformers 5 has them in memory."""


def llava(config: ProjectedConfig, beginning: str = "", tower: str = "", numbered: bool = False) -> Table:
    """Return the table of LLaVA.

    Args:
        config: of the model.
        beginning: one of ``LLAVA``.
        tower: what stands before the names of the eye's tensors: ``"vision_model."`` in files from before 2026.
        numbered: whether the numbers 0, 1, 2, ... of the eye's positions are there too.
    """
    eye, projector, language, head = LLAVA[beginning]
    rules: dict[str, Any] = {
        **_eye(config, eye + tower, numbered),
        projector + "linear_1.{leaf}": "projector.fc1.{leaf}",
        projector + "linear_2.{leaf}": "projector.fc2.{leaf}",
        **nested(inner_rules(config.decoder), language, "decoder."),
        head: Tied(language + "embed_tokens.weight") if config.decoder.tied else "decoder.head.weight",
    }
    name = "huggingface-llava" + ("-5" if beginning else "")
    return Table(name + ("-nested" if tower else "") + ("-numbered" if numbered else ""), rules)


def idefics3(config: ProjectedConfig) -> Table:
    """Return the table of Idefics3 and SmolVLM."""
    rules: dict[str, Any] = {
        **_eye(config, "model.vision_model.", False),
        "model.connector.modality_projection.proj.weight": "projector.proj.weight",
        **nested(inner_rules(config.decoder), "model.text_model.", "decoder."),
        "lm_head.weight": Tied("model.text_model.embed_tokens.weight")
        if config.decoder.tied
        else "decoder.head.weight",
    }
    return Table("huggingface-idefics3", rules)


def idefics(config: GatedModelConfig) -> Table:
    """Return the table of Idefics-1."""
    rules: dict[str, Any] = {
        **_eye(config, "model.vision_model.", False),
        **nested(inner_rules(config.decoder), "model.", "decoder."),
        "lm_head.weight": "decoder.head.weight",
    }
    if config.added:
        rules["model.embed_tokens.weight"] = "decoder.tokens.base.weight"
        rules["model.embed_tokens.additional_embedding.weight"] = "decoder.tokens.more.weight"
        rules["lm_head.weight"] = "decoder.head.base.weight"
        rules["lm_head.additional_fc.weight"] = "decoder.head.more.weight"
    # the branches that look are numbered by themselves there, and by their blocks here
    for number, block in enumerate(range(0, config.decoder.depth, config.gates.every)):
        rules |= _looks(config, f"model.gated_cross_attn_layers.{number}.", f"decoder.blocks.{block}.")
    if config.resampler is not None:
        rules |= nested(IDEFICS, "model.perceiver_resampler.", "resampler.")
    return Table("huggingface-idefics", rules)


def _eye(config: ProjectedConfig | GatedModelConfig, there: str, numbered: bool) -> dict[str, Any]:
    rules = nested(image_tower(config.eye), there, "eye.tower.")
    if numbered:
        rows = config.eye.placed + config.eye.grid[0] * config.eye.grid[1]
        rules[there + "embeddings.position_ids"] = Fixed([list(range(rows))], torch.int64)
    return rules


def _looks(config: GatedModelConfig, there: str, here: str) -> dict[str, Any]:
    attention = {f"cross_attn.{part}_proj.weight": f"cross.fn.fn.{part}.proj.weight" for part in "qkv"}
    names: dict[str, str] = {
        **attention,
        "cross_attn.o_proj.weight": "cross.fn.fn.out.weight",
        "cross_attn.q_layer_norm.weight": "cross.fn.fn.q.norm.weight",
        "cross_attn.k_layer_norm.weight": "cross.fn.fn.k.norm.weight",
        "input_layernorm.weight": "cross.norm.weight",
        "post_attention_layernorm.weight": "dense.norm.weight",
        **{f"mlp.{part}_proj.weight": f"dense.fn.{part}.weight" for part in ("gate", "up", "down")},
    }
    rules: dict[str, Any] = {there + theirs: here + ours for theirs, ours in names.items()}
    for theirs, ours in (("alpha_cross_attn", "cross.post.alpha"), ("alpha_dense", "dense.post.alpha")):
        one = config.gates.alpha == "one"
        rules[there + theirs] = here + ours if one else Reshape(here + ours, theirs=(1, 1, -1), ours=(-1,))
    # it has no rotary positions, but files may hold their frequencies
    return rules | {there + "cross_attn.rotary_emb.inv_freq": None}
