"""What the weights of CLIP, SigLIP and SigLIP 2 are called by open_clip (hence OpenAI) and by Hugging Face."""

from math import prod
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError
from core.weights import Fixed, Reshape, Rules, Split, Table, nested
from core.weights.published import patch_kernel
from core.weights.rules import Rule, Transpose
from multimodal.two_towers import TwoTowersConfig
from vision.names import hugging_face as hugging_face_vit
from vision.names import timm as timm_vit
from vision.swin import SwinConfig
from vision.swin_weights import swin_table
from vision.vit import ViTConfig

__all__ = ["hugging_face", "of_timm", "open_clip", "openai", "residual_block"]


def open_clip(config: TwoTowersConfig, custom: bool = False) -> Table:
    """Return the table of open_clip's names; those of plain CLIP are OpenAI's.

    Args:
        config: of the model.
        custom: whether the text tower is a part of its own (``CustomTextCLIP``, as all SigLIP are), or lies bare.
    """
    text: dict[str, Any] = {
        "token_embedding.weight": "tokens.weight",
        "positional_embedding": "positions.table",
        **residual_block("transformer.resblocks", "blocks"),
        "ln_final.{leaf}": "norm.{leaf}",
    }
    if config.text.embed_bias:
        text["text_projection.{leaf}"] = "proj.{leaf}"
    else:
        text["text_projection"] = Transpose("proj.weight")
    rules = {**_image(config), **nested(text, "text." if custom else "", "text.")}
    rules |= {"logit_scale": "logit_scale", "logit_bias": "logit_bias"}
    return Table("open_clip-custom" if custom else "open_clip", rules)


def openai(config: TwoTowersConfig) -> Table:
    """Return the table of OpenAI's archives: the names of open_clip, three sizes, and the mask if it was scripted."""
    sizes = {
        "input_resolution": config.image.image[0],
        "context_length": config.text.context,
        "vocab_size": config.text.vocab,
    }
    fixed = {name: Fixed(size, torch.int64) for name, size in sizes.items()}
    return Table("openai", {**open_clip(config).rules, **fixed, "attn_mask": None})


def of_timm(config: TwoTowersConfig) -> bool:
    """Whether open_clip builds the image tower with timm, as it does for SigLIP, and not with its own class."""
    return isinstance(config.image, SwinConfig) or not config.image.pre_norm


def residual_block(there: str, here: str, attn: str = "attn", mlp: str = "mlp") -> dict[str, Any]:
    """Return the names of open_clip's ``ResidualAttentionBlock``.

    Args:
        there, here: the list of blocks.
        attn, mlp: the branches of ours.
    """
    q, k, v = (f"{here}.{{i}}.{attn}.fn.{part}.proj." for part in "qkv")
    names: dict[str, Any] = {
        "ln_1.{leaf}": f"{attn}.norm.{{leaf}}",
        "attn.out_proj.{leaf}": f"{attn}.fn.out.{{leaf}}",
        "ln_2.{leaf}": f"{mlp}.norm.{{leaf}}",
        "mlp.c_fc.{leaf}": f"{mlp}.fn.fc1.{{leaf}}",
        "mlp.c_proj.{leaf}": f"{mlp}.fn.fc2.{{leaf}}",
    }
    return {
        **{f"{there}.{{i}}.{theirs}": f"{here}.{{i}}.{ours}" for theirs, ours in names.items()},
        f"{there}.{{i}}.attn.in_proj_weight": Split(q + "weight", k + "weight", v + "weight"),
        f"{there}.{{i}}.attn.in_proj_bias": Split(q + "bias", k + "bias", v + "bias"),
    }


def _image(config: TwoTowersConfig) -> dict[str, Any]:
    image = config.image
    if isinstance(image, SwinConfig):
        rules = nested(swin_table(image, "timm").rules, "visual.trunk.", "image.")
    elif of_timm(config):
        rules = nested(timm_vit(image).rules, "visual.trunk.", "image.")
    else:
        names: Rules = {
            "class_embedding": Reshape("cls_token", theirs=(-1,), ours=(1, 1, -1)),
            "positional_embedding": "positions.table",
            "conv1.weight": patch_kernel(image.channels, image.patch),
            "ln_pre.{leaf}": "pre_norm.{leaf}",
            **residual_block("transformer.resblocks", "blocks"),
            "ln_post.{leaf}": "norm.{leaf}",
        }
        return {**nested(names, "visual.", "image."), "visual.proj": Transpose("image_proj.weight")}
    return {**rules, "visual.head.proj.weight": "image_proj.weight"}


def hugging_face(config: TwoTowersConfig, numbered: bool = False, flat: bool = False) -> Table:
    """Return the table of Hugging Face's ``CLIPModel`` and ``SiglipModel`` on disk (SigLIP 2 of fixed size included).

    Args:
        config: of the model.
        numbered: whether the numbers 0, 1, 2, ... of the positions are there too, as in files from before 2023.
        flat: whether patches are projected by a linear layer that takes them pixel by pixel (``Siglip2Model``).

    Raises:
        InputError: for a Swin, which Hugging Face has no such model for.
    """
    if not isinstance(config.image, ViTConfig):
        raise InputError("Hugging Face has no CLIP with a Swin: choose the layout open_clip")
    attention = {f"self_attn.{part}_proj.{{leaf}}": f"attn.fn.{part}.proj.{{leaf}}" for part in "qkv"}
    layer = {
        **attention,
        "self_attn.out_proj.{leaf}": "attn.fn.out.{leaf}",
        "layer_norm1.{leaf}": "attn.norm.{leaf}",
        "layer_norm2.{leaf}": "mlp.norm.{leaf}",
        "mlp.fc1.{leaf}": "mlp.fn.fc1.{leaf}",
        "mlp.fc2.{leaf}": "mlp.fn.fc2.{leaf}",
    }
    text: Rules = {
        "embeddings.token_embedding.weight": "tokens.weight",
        "embeddings.position_embedding.weight": "positions.table",
        **{f"encoder.layers.{{i}}.{theirs}": f"blocks.{{i}}.{ours}" for theirs, ours in layer.items()},
        "final_layer_norm.{leaf}": "norm.{leaf}",
    }
    rules = nested(text, "text_model.", "text.") | nested(hugging_face_vit(config.image).rules, "", "image.")
    suffix = ("-numbered" if numbered else "") + ("-flat" if flat else "")
    if numbered:
        for tower, rows in (("text", config.text.context), ("vision", config.image.placed + prod(config.image.grid))):
            rules[f"{tower}_model.embeddings.position_ids"] = Fixed([list(range(rows))], torch.int64)
    if flat:
        rules["vision_model.embeddings.patch_embedding.weight"] = _Pixels(config.image.channels, config.image.patch)
    if config.logit_bias is None:
        rules |= {"text_projection.weight": "text.proj.weight", "visual_projection.weight": "image_proj.weight"}
        return Table("huggingface-clip" + suffix, {**rules, "logit_scale": "logit_scale"})
    rules["text_model.head.{leaf}"] = "text.proj.{leaf}"
    for name in ("logit_scale", "logit_bias"):
        rules[name] = Reshape(name, theirs=(1,), ours=())
    return Table("huggingface-siglip" + suffix, rules)


class _Pixels(Rule):
    """The projection of patches that are given pixel by pixel, (D, p*p*C); ours takes them channel by channel."""

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__("image.patch.proj.weight")
        self.channels, self.patch = channels, patch

    def load(self, theirs: Tensor) -> tuple[Tensor, ...]:
        """Put the channels before the pixels."""
        if theirs.ndim != 2 or theirs.shape[1] != self.patch**2 * self.channels:
            raise ValueError(f"{tuple(theirs.shape)} takes no patches of {self.patch} x {self.patch}")
        return (theirs.unflatten(1, (-1, self.channels)).transpose(1, 2).flatten(1),)  # (D, p*p*C) -> (D, C*p*p)

    def export(self, *ours: Tensor) -> Tensor:
        """Put the channels behind the pixels."""
        return ours[0].unflatten(1, (self.channels, -1)).transpose(1, 2).flatten(1)  # (D, C*p*p) -> (D, p*p*C)
