"""Masked autoencoders as published: the sizes, and the names of facebookresearch/mae and Hugging Face, both ways."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import InputError
from core.weights import (
    Makers,
    Reshape,
    Rules,
    Source,
    Split,
    Squeeze,
    Table,
    build,
    from_plain,
    is_bundle,
    open_bundle,
    read,
    write_safetensors,
)
from core.weights.files import read_json

from .mae import MAE_ENCODER, MAEConfig, MaskedAutoencoder

__all__ = ["MAKERS", "PRESETS", "MAEInfo", "export_mae", "facebook", "hugging_face", "load_mae", "mae"]

PRESETS: dict[str, MAEConfig] = {
    "mae_vit_base_patch16": MAEConfig(),
    "mae_vit_large_patch16": MAEConfig(replace(MAE_ENCODER, dim=1024, depth=24, heads=16)),
    "mae_vit_huge_patch14": MAEConfig(replace(MAE_ENCODER, patch=14, dim=1280, depth=32, heads=16)),
}
"""The sizes of facebookresearch/mae (``models_mae.py``)."""

MAKERS: Makers = {"vision.MaskedAutoencoder": lambda config: MaskedAutoencoder(from_plain(MAEConfig, config))}
"""What a bundle of this family may hold."""

STACKS = {"published": "decoder.decoder_layers.{i}", "5": "decoder.decoder_encoder.layer.{i}"}
"""Where Hugging Face keeps the decoder's blocks: as published, and as transformers 5 writes them."""


def mae(name: str, **changes: Any) -> MaskedAutoencoder:
    """Build the preset ``name`` with random weights, with some fields of :class:`MAEConfig` changed.

    Raises:
        InputError: if there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"no MAE preset {name!r}: choose one of {', '.join(PRESETS)}")
    return MaskedAutoencoder(replace(PRESETS[name], **changes))


def facebook(config: MAEConfig) -> Table:
    """Return the table of facebookresearch/mae, whose blocks are timm's."""
    return Table(
        "facebook-mae",
        {
            "cls_token": "encoder.cls_token",
            "pos_embed": Squeeze("encoder.positions.table"),
            "patch_embed.proj.weight": _kernel(config),
            "patch_embed.proj.bias": "encoder.patch.proj.bias",
            **_timm_block("blocks.{i}", "encoder.blocks.{i}"),
            "norm.{leaf}": "encoder.norm.{leaf}",
            "decoder_embed.{leaf}": "embed.{leaf}",
            "mask_token": "mask_token",
            "decoder_pos_embed": Squeeze("positions.table"),
            **_timm_block("decoder_blocks.{i}", "decoder.{i}"),
            "decoder_norm.{leaf}": "norm.{leaf}",
            "decoder_pred.{leaf}": "head.{leaf}",
        },
    )


def hugging_face(config: MAEConfig, version: str = "published") -> Table:
    """Return the table of Hugging Face's ``ViTMAEForPreTraining`` on disk.

    Args:
        config: of the model.
        version: ``"published"``, or ``"5"`` for what transformers 5 writes; see :data:`STACKS`.
    """
    return Table(
        "huggingface-mae" if version == "published" else f"huggingface-mae-{version}",
        {
            "vit.embeddings.cls_token": "encoder.cls_token",
            "vit.embeddings.position_embeddings": Squeeze("encoder.positions.table"),
            "vit.embeddings.patch_embeddings.projection.weight": _kernel(config),
            "vit.embeddings.patch_embeddings.projection.bias": "encoder.patch.proj.bias",
            **_hugging_face_block("vit.encoder.layer.{i}", "encoder.blocks.{i}"),
            "vit.layernorm.{leaf}": "encoder.norm.{leaf}",
            "decoder.decoder_embed.{leaf}": "embed.{leaf}",
            "decoder.mask_token": "mask_token",
            "decoder.decoder_pos_embed": Squeeze("positions.table"),
            **_hugging_face_block(STACKS[version], "decoder.{i}"),
            "decoder.decoder_norm.{leaf}": "norm.{leaf}",
            "decoder.decoder_pred.{leaf}": "head.{leaf}",
        },
    )


def _tables(config: MAEConfig) -> dict[str, Table]:
    found = [facebook(config), *(hugging_face(config, version) for version in STACKS)]
    return {table.name: table for table in found}


def _kernel(config: MAEConfig) -> Reshape:
    channels, patch = config.encoder.channels, config.encoder.patch
    shapes = (-1, channels, patch, patch), (-1, channels * patch * patch)
    return Reshape("encoder.patch.proj.weight", *shapes)


def _timm_block(theirs: str, ours: str) -> Rules:
    parts = [f"{ours}.attn.fn.{part}.proj.{{leaf}}" for part in "qkv"]
    return {
        f"{theirs}.norm1.{{leaf}}": f"{ours}.attn.norm.{{leaf}}",
        f"{theirs}.attn.qkv.{{leaf}}": Split(*parts),
        f"{theirs}.attn.proj.{{leaf}}": f"{ours}.attn.fn.out.{{leaf}}",
        f"{theirs}.norm2.{{leaf}}": f"{ours}.mlp.norm.{{leaf}}",
        f"{theirs}.mlp.fc1.{{leaf}}": f"{ours}.mlp.fn.fc1.{{leaf}}",
        f"{theirs}.mlp.fc2.{{leaf}}": f"{ours}.mlp.fn.fc2.{{leaf}}",
    }


def _hugging_face_block(theirs: str, ours: str) -> Rules:
    return {
        f"{theirs}.layernorm_before.{{leaf}}": f"{ours}.attn.norm.{{leaf}}",
        f"{theirs}.attention.attention.query.{{leaf}}": f"{ours}.attn.fn.q.proj.{{leaf}}",
        f"{theirs}.attention.attention.key.{{leaf}}": f"{ours}.attn.fn.k.proj.{{leaf}}",
        f"{theirs}.attention.attention.value.{{leaf}}": f"{ours}.attn.fn.v.proj.{{leaf}}",
        f"{theirs}.attention.output.dense.{{leaf}}": f"{ours}.attn.fn.out.{{leaf}}",
        f"{theirs}.layernorm_after.{{leaf}}": f"{ours}.mlp.norm.{{leaf}}",
        f"{theirs}.intermediate.dense.{{leaf}}": f"{ours}.mlp.fn.fc1.{{leaf}}",
        f"{theirs}.output.dense.{{leaf}}": f"{ours}.mlp.fn.fc2.{{leaf}}",
    }


@dataclass(frozen=True)
class MAEInfo:
    """Where a masked autoencoder came from.

    Attributes:
        layout: ``"facebook-mae"``, ``"huggingface-mae"``, ``"huggingface-mae-5"`` or ``"bundle"``.
        source: for :func:`export_mae`; None for a bundle of a model that was never imported.
        preprocessing: of the images, in the words of the layout.
    """

    layout: str
    source: Source | None
    preprocessing: dict[str, Any] = field(default_factory=dict)


def load_mae(path: Path | str, config: MAEConfig | None = None) -> tuple[MaskedAutoencoder, MAEInfo]:
    """Load a masked autoencoder, encoder and decoder, from a file or folder of Hugging Face or Facebook, or a bundle.

    Args:
        path: the file or folder.
        config: of the model; by default that of the folder's ``config.json`` (Hugging Face), or the public size that
            the tensors have (Facebook; whether pixels were normalised is not in the file, and taken to be so).

    Returns:
        The model in float32, and where it came from.

    Raises:
        InputError: if it is none of these, or any tensor is missing, unexpected or wrong.
    """
    path = Path(path)
    if is_bundle(path):
        found, bundle = open_bundle(path, MAKERS)
        assert isinstance(found, MaskedAutoencoder)
        return found, MAEInfo("bundle", bundle.source, bundle.preprocessing)
    checkpoint = read(path)
    tensors, folder = checkpoint.tensors, checkpoint.path.parent
    if "decoder_pred.weight" in tensors:
        config = config or _public_size(tensors, checkpoint.path)
        table = facebook(config)
    elif "decoder.decoder_pred.weight" in tensors:
        config = config or _config_of_hugging_face(folder)
        written_by_5 = any(name.startswith("decoder.decoder_encoder.") for name in tensors)
        table = hugging_face(config, "5" if written_by_5 else "published")
    else:
        raise InputError(
            f"{checkpoint.path} is no masked autoencoder with its decoder: expected one of facebookresearch/mae or "
            "Hugging Face; an encoder alone is a ViT"
        )
    made = config
    model, source = build(lambda: MaskedAutoencoder(made), table, tensors, checkpoint.meta)
    said = folder / "preprocessor_config.json"
    return model, MAEInfo(table.name, source, read_json(said) if said.exists() else {})


def export_mae(
    model: MaskedAutoencoder, path: Path | str, source: Source | None = None, layout: str = "huggingface-mae"
) -> None:
    """Write a masked autoencoder's weights as safetensors in the names that they came in, or in others; atomically.

    Args:
        model: the model.
        path: of the file.
        source: from :func:`load_mae`: dtypes are those of the source.
        layout: ``"facebook-mae"``, ``"huggingface-mae"`` or ``"huggingface-mae-5"``, where there is no source.

    Raises:
        InputError: if there is no such layout, or it can't hold this model.
    """
    layout = layout if source is None else source.table
    tables = _tables(model.config)
    if layout not in tables:
        raise InputError(f"no MAE layout {layout!r}: choose one of {', '.join(tables)}")
    write_safetensors(path, tables[layout].export(model.state_dict(), source))


def _public_size(tensors: Mapping[str, Tensor], path: Path) -> MAEConfig:
    for config in PRESETS.values():
        encoder = config.encoder
        if tensors["decoder_embed.weight"].shape == (config.dim, encoder.dim) and (
            tensors.get("pos_embed", tensors["decoder_embed.weight"]).shape[-2] == 1 + encoder.grid[0] * encoder.grid[1]
        ):
            return config
    raise InputError(f"{path} has none of the public sizes ({', '.join(PRESETS)}): give its MAEConfig")


def _config_of_hugging_face(folder: Path) -> MAEConfig:
    path = folder / "config.json"
    said = read_json(path)
    for name, value in {"model_type": "vit_mae", "hidden_act": "gelu", "qkv_bias": True}.items():
        if said.get(name) != value:
            raise InputError(f"{path} is no MAE that is known: {name} is {said.get(name)!r}, expected {value!r}")
    encoder = {
        "patch": "patch_size",
        "channels": "num_channels",
        "dim": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "hidden": "intermediate_size",
        "eps": "layer_norm_eps",
    }
    decoder = {
        "dim": "decoder_hidden_size",
        "depth": "decoder_num_hidden_layers",
        "heads": "decoder_num_attention_heads",
        "hidden": "decoder_intermediate_size",
        "mask": "mask_ratio",
        "normalise": "norm_pix_loss",
    }
    lacking = [name for name in (*encoder.values(), *decoder.values(), "image_size") if name not in said]
    if lacking:
        raise InputError(f"{path} lacks {', '.join(lacking)}: not an MAE")
    size = said["image_size"]
    inner = {ours: said[theirs] for ours, theirs in encoder.items()}
    inner |= {"image": size if isinstance(size, list) else [size, size], "classes": 0, "positions": "sincos"}
    plain = {ours: said[theirs] for ours, theirs in decoder.items()}
    return from_plain(MAEConfig, {**plain, "encoder": inner}, str(path))
