"""What the weights of a ViT are called elsewhere: timm, Hugging Face, and the repositories of DINOv2 and DINOv3.

MAE, DINO and DeiT use timm's names for their encoders.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.weights import Reshape, Rules, Split, Squeeze, Table, nested
from core.weights.published import patch_kernel
from core.weights.rules import ZEROS, Derived

from .vit import ViTConfig

__all__ = ["TIMM", "hugging_face", "image_tower", "meta", "timm"]

_MLP: Rules = {
    "blocks.{i}.mlp.fc1.{leaf}": "blocks.{i}.mlp.fn.fc1.{leaf}",
    "blocks.{i}.mlp.fc2.{leaf}": "blocks.{i}.mlp.fn.fc2.{leaf}",
}
_ATTENTION: Rules = {
    "blocks.{i}.norm1.{leaf}": "blocks.{i}.attn.norm.{leaf}",
    "blocks.{i}.norm2.{leaf}": "blocks.{i}.mlp.norm.{leaf}",
    "blocks.{i}.attn.qkv.{leaf}": Split(
        "blocks.{i}.attn.fn.q.proj.{leaf}", "blocks.{i}.attn.fn.k.proj.{leaf}", "blocks.{i}.attn.fn.v.proj.{leaf}"
    ),
    "blocks.{i}.attn.proj.{leaf}": "blocks.{i}.attn.fn.out.{leaf}",
    "norm.{leaf}": "norm.{leaf}",
}
_SCALES: Rules = {
    "blocks.{i}.ls1.gamma": "blocks.{i}.attn.post.gamma",
    "blocks.{i}.ls2.gamma": "blocks.{i}.mlp.post.gamma",
}
# the names of EVA, which is what timm builds DINOv3 with
_EVA: Rules = {
    "blocks.{i}.gamma_1": "blocks.{i}.attn.post.gamma",
    "blocks.{i}.gamma_2": "blocks.{i}.mlp.post.gamma",
    "blocks.{i}.attn.q_bias": "blocks.{i}.attn.fn.q.proj.bias",
    "blocks.{i}.attn.v_bias": "blocks.{i}.attn.fn.v.proj.bias",
    "blocks.{i}.mlp.fc1_g.{leaf}": "blocks.{i}.mlp.fn.gate.{leaf}",
    "blocks.{i}.mlp.fc1_x.{leaf}": "blocks.{i}.mlp.fn.up.{leaf}",
}
_TIMM: Rules = {
    **_ATTENTION,
    "cls_token": "cls_token",
    "dist_token": "dist_token",
    "reg_token": "registers",
    "pos_embed": Squeeze("positions.table"),
    "patch_embed.proj.bias": "patch.proj.bias",
    "norm_pre.{leaf}": "pre_norm.{leaf}",
    "blocks.{i}.attn.q_norm.{leaf}": "blocks.{i}.attn.fn.q.norm.{leaf}",
    "blocks.{i}.attn.k_norm.{leaf}": "blocks.{i}.attn.fn.k.norm.{leaf}",
    "fc_norm.{leaf}": "pool.norm.{leaf}",
    "attn_pool.latent": "pool.query",
    "attn_pool.q.{leaf}": "pool.block.cross.fn.q.proj.{leaf}",
    "attn_pool.kv.{leaf}": Split("pool.block.cross.fn.k.proj.{leaf}", "pool.block.cross.fn.v.proj.{leaf}"),
    "attn_pool.proj.{leaf}": "pool.block.cross.fn.out.{leaf}",
    "attn_pool.norm.{leaf}": "pool.block.mlp.norm.{leaf}",
    "attn_pool.mlp.fc1.{leaf}": "pool.block.mlp.fn.fc1.{leaf}",
    "attn_pool.mlp.fc2.{leaf}": "pool.block.mlp.fn.fc2.{leaf}",
}


def timm(config: ViTConfig) -> Table:
    """Return the table of timm's names; their patch projection is a convolution, whose kernel depends on the config."""
    rules: dict[str, Any] = {"patch_embed.proj.weight": _kernel(config), **_TIMM}
    eva = config.positions == "rotary"
    rules |= _EVA if eva else _SCALES
    if config.mlp != "swiglu":
        rules |= _MLP
    else:
        rules["blocks.{i}.mlp.fc2.{leaf}"] = "blocks.{i}.mlp.fn.down.{leaf}"
        if not eva:
            rules["blocks.{i}.mlp.fc1.{leaf}"] = Split("blocks.{i}.mlp.fn.gate.{leaf}", "blocks.{i}.mlp.fn.up.{leaf}")
    if config.pool == "distilled":
        rules |= {"head.{leaf}": "head.cls.{leaf}", "head_dist.{leaf}": "head.dist.{leaf}"}
    else:
        rules["head.{leaf}"] = "head.{leaf}"
    return Table("timm", rules)


def meta(config: ViTConfig) -> Table:
    """Return the table of the names of facebookresearch/dinov2, or of dinov3 where positions are rotary."""
    rules: dict[str, Any] = {
        **_ATTENTION,
        **_SCALES,
        "cls_token": "cls_token",
        "mask_token": "mask_token",
        "patch_embed.proj.weight": _kernel(config),
        "patch_embed.proj.bias": "patch.proj.bias",
    }
    if config.mlp != "swiglu":
        rules |= _MLP
    else:
        rules["blocks.{i}.mlp.w3.{leaf}"] = "blocks.{i}.mlp.fn.down.{leaf}"
    if config.positions == "rotary":
        rules["storage_tokens"] = "registers"
        rules["rope_embed.periods"] = None  # follow from the width of a head
        del rules["blocks.{i}.attn.qkv.{leaf}"]
        q, k, v = ("blocks.{i}.attn.fn." + part + ".proj." for part in "qkv")
        rules["blocks.{i}.attn.qkv.weight"] = Split(q + "weight", k + "weight", v + "weight")
        rules["blocks.{i}.attn.qkv.bias"] = Split(q + "bias", ZEROS, v + "bias")
        rules["blocks.{i}.attn.qkv.bias_mask"] = _KeyMask("blocks.{i}.attn.qkv.bias")
        if config.mlp == "swiglu":
            rules["blocks.{i}.mlp.w1.{leaf}"] = "blocks.{i}.mlp.fn.gate.{leaf}"
            rules["blocks.{i}.mlp.w2.{leaf}"] = "blocks.{i}.mlp.fn.up.{leaf}"
    else:
        rules["register_tokens"] = "registers"
        rules["pos_embed"] = Squeeze("positions.table")
        if config.mlp == "swiglu":
            rules["blocks.{i}.mlp.w12.{leaf}"] = Split("blocks.{i}.mlp.fn.gate.{leaf}", "blocks.{i}.mlp.fn.up.{leaf}")
    return Table("meta", rules)


def hugging_face(config: ViTConfig, prefix: str | None = None) -> Table:
    """Return the table of Hugging Face's names on disk, of the family that the config belongs to.

    Args:
        config: of the model.
        prefix: of the encoder's names; by default that of the family's model with a head (``"vit."``), or
            none in families without one.
    """
    family, own, make = _family(config)
    chosen = own if prefix is None else prefix
    rules = nested(make(config), theirs=chosen, ours="")
    head = _HEADS.get(family, {}) if chosen else {}
    name = {own: "huggingface", "": "huggingface-bare"}.get(chosen, f"huggingface-{chosen}")
    return Table(name, {**rules, **head})


class _KeyMask(Derived):
    """DINOv3's mask of the fused bias: ones, with zeros where the keys' would be."""

    def make(self, twin: Tensor | None) -> Tensor:
        """Return the mask."""
        assert twin is not None
        mask = torch.ones_like(twin)
        mask.chunk(3)[1].zero_()
        return mask

    def flaw(self, theirs: Tensor, twin: Tensor | None) -> str | None:
        """It must be just that."""
        if twin is None or theirs.shape != twin.shape:
            return f"should have the shape of {self.of}"
        return None if torch.equal(theirs, self.make(theirs)) else "should be one, and zero for the keys"


def _kernel(config: ViTConfig) -> Reshape:
    return patch_kernel(config.channels, config.patch)


def _layers(there: str, names: dict[str, str]) -> dict[str, Any]:
    """Names inside a layer: theirs ``there + key``, ours ``blocks.{i}. + value``."""
    return {f"{there}.{{i}}.{theirs}": f"blocks.{{i}}.{ours}" for theirs, ours in names.items()}


_BERT = {
    "attention.attention.query.{leaf}": "attn.fn.q.proj.{leaf}",
    "attention.attention.key.{leaf}": "attn.fn.k.proj.{leaf}",
    "attention.attention.value.{leaf}": "attn.fn.v.proj.{leaf}",
    "attention.output.dense.{leaf}": "attn.fn.out.{leaf}",
}
_FC = {"mlp.fc1.{leaf}": "mlp.fn.fc1.{leaf}", "mlp.fc2.{leaf}": "mlp.fn.fc2.{leaf}"}
_LAMBDA = {"layer_scale1.lambda1": "attn.post.gamma", "layer_scale2.lambda1": "mlp.post.gamma"}
_NORMS = {"norm1.{leaf}": "attn.norm.{leaf}", "norm2.{leaf}": "mlp.norm.{leaf}"}


def _vit(config: ViTConfig) -> dict[str, Any]:
    layer = {
        **_BERT,
        "layernorm_before.{leaf}": "attn.norm.{leaf}",
        "layernorm_after.{leaf}": "mlp.norm.{leaf}",
        "intermediate.dense.{leaf}": "mlp.fn.fc1.{leaf}",
        "output.dense.{leaf}": "mlp.fn.fc2.{leaf}",
    }
    return {
        "embeddings.cls_token": "cls_token",
        "embeddings.distillation_token": "dist_token",
        "embeddings.position_embeddings": Squeeze("positions.table"),
        "embeddings.patch_embeddings.projection.weight": _kernel(config),
        "embeddings.patch_embeddings.projection.bias": "patch.proj.bias",
        **_layers("encoder.layer", layer),
        "layernorm.{leaf}": "norm.{leaf}",
        "pooler.dense.{leaf}": None,  # the tanh layer before the head of ImageNet-21k, which isn't in the checkpoints
    }


def _dinov2(config: ViTConfig) -> dict[str, Any]:
    rules: dict[str, Any] = {
        "embeddings.cls_token": "cls_token",
        "embeddings.mask_token": "mask_token",
        "embeddings.register_tokens": "registers",
        "embeddings.position_embeddings": Squeeze("positions.table"),
        "embeddings.patch_embeddings.projection.weight": _kernel(config),
        "embeddings.patch_embeddings.projection.bias": "patch.proj.bias",
        **_layers("encoder.layer", {**_BERT, **_NORMS, **_LAMBDA}),
        "layernorm.{leaf}": "norm.{leaf}",
    }
    if config.mlp != "swiglu":
        return rules | _layers("encoder.layer", _FC)
    gated = Split("blocks.{i}.mlp.fn.gate.{leaf}", "blocks.{i}.mlp.fn.up.{leaf}")
    out = _layers("encoder.layer", {"mlp.weights_out.{leaf}": "mlp.fn.down.{leaf}"})
    return rules | out | {"encoder.layer.{i}.mlp.weights_in.{leaf}": gated}


def _dinov3(config: ViTConfig) -> dict[str, Any]:
    gated = {"mlp.gate_proj.{leaf}": "mlp.fn.gate.{leaf}", "mlp.up_proj.{leaf}": "mlp.fn.up.{leaf}"}
    gated["mlp.down_proj.{leaf}"] = "mlp.fn.down.{leaf}"
    plain = {"mlp.up_proj.{leaf}": "mlp.fn.fc1.{leaf}", "mlp.down_proj.{leaf}": "mlp.fn.fc2.{leaf}"}
    attention = {f"attention.{part}_proj.{{leaf}}": f"attn.fn.{part}.proj.{{leaf}}" for part in "qkv"}
    attention["attention.o_proj.{leaf}"] = "attn.fn.out.{leaf}"
    layer = {**attention, **_NORMS, **_LAMBDA, **(gated if config.mlp == "swiglu" else plain)}
    return {
        "embeddings.cls_token": "cls_token",
        "embeddings.mask_token": Squeeze("mask_token"),
        "embeddings.register_tokens": "registers",
        "embeddings.patch_embeddings.weight": _kernel(config),
        "embeddings.patch_embeddings.bias": "patch.proj.bias",
        **_layers("layer", layer),
        "norm.{leaf}": "norm.{leaf}",
    }


def image_tower(config: ViTConfig) -> dict[str, Any]:
    """Return the rules of the image towers of CLIP and SigLIP: the part that other models have inside."""
    attention = {f"self_attn.{part}_proj.{{leaf}}": f"attn.fn.{part}.proj.{{leaf}}" for part in "qkv"}
    attention["self_attn.out_proj.{leaf}"] = "attn.fn.out.{leaf}"
    norms = {"layer_norm1.{leaf}": "attn.norm.{leaf}", "layer_norm2.{leaf}": "mlp.norm.{leaf}"}
    joined = ("pool.block.cross.fn." + part + ".proj." for part in "qkv")
    q, k, v = joined
    return {
        "embeddings.class_embedding": Reshape("cls_token", theirs=(-1,), ours=(1, 1, -1)),
        "embeddings.patch_embedding.weight": _kernel(config),
        "embeddings.patch_embedding.bias": "patch.proj.bias",
        "embeddings.position_embedding.weight": "positions.table",
        "pre_layrnorm.{leaf}": "pre_norm.{leaf}",
        **_layers("encoder.layers", {**attention, **norms, **_FC}),
        "post_layernorm.{leaf}": "norm.{leaf}",
        "head.probe": "pool.query",
        "head.attention.in_proj_weight": Split(q + "weight", k + "weight", v + "weight"),
        "head.attention.in_proj_bias": Split(q + "bias", k + "bias", v + "bias"),
        "head.attention.out_proj.{leaf}": "pool.block.cross.fn.out.{leaf}",
        "head.layernorm.{leaf}": "pool.block.mlp.norm.{leaf}",
        "head.mlp.fc1.{leaf}": "pool.block.mlp.fn.fc1.{leaf}",
        "head.mlp.fc2.{leaf}": "pool.block.mlp.fn.fc2.{leaf}",
    }


_HEADS: dict[str, dict[str, Any]] = {
    "vit": {"classifier.{leaf}": "head.{leaf}"},
    "deit": {
        "cls_classifier.{leaf}": "head.cls.{leaf}",
        "distillation_classifier.{leaf}": "head.dist.{leaf}",
    },
}


def _family(config: ViTConfig) -> tuple[str, str, Callable[[ViTConfig], dict[str, Any]]]:
    """Name, prefix of the encoder beside a head, and names of Hugging Face's family for a config."""
    if config.pre_norm:
        return "clip", "vision_model.", image_tower
    if config.pool == "map":
        return "siglip", "vision_model.", image_tower
    if config.positions == "rotary":
        return "dinov3", "model.", _dinov3
    if config.layer_scale is not None:
        return "dinov2", "dinov2_with_registers." if config.registers else "dinov2.", _dinov2
    if config.distilled:
        return "deit", "deit.", _vit
    return "vit", "vit.", _vit


TIMM = timm(ViTConfig())
"""The names of timm for patches of 16 x 16 in RGB."""
