"""ViT checkpoints: the names of timm and of Hugging Face, both ways."""

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

from .presets import PRESETS
from .vit import ViT, ViTConfig

__all__ = ["MAKERS", "TIMM", "ViTInfo", "export_vit", "hugging_face", "load_vit", "timm"]

_TIMM: Rules = {
    "cls_token": "cls_token",
    "reg_token": "registers",
    "pos_embed": Squeeze("positions.table"),
    "patch_embed.proj.bias": "patch.proj.bias",
    "blocks.{i}.norm1.{leaf}": "blocks.{i}.attn.norm.{leaf}",
    "blocks.{i}.attn.qkv.{leaf}": Split(
        "blocks.{i}.attn.fn.q.proj.{leaf}", "blocks.{i}.attn.fn.k.proj.{leaf}", "blocks.{i}.attn.fn.v.proj.{leaf}"
    ),
    "blocks.{i}.attn.proj.{leaf}": "blocks.{i}.attn.fn.out.{leaf}",
    "blocks.{i}.ls1.gamma": "blocks.{i}.attn.post.gamma",
    "blocks.{i}.norm2.{leaf}": "blocks.{i}.mlp.norm.{leaf}",
    "blocks.{i}.mlp.fc1.{leaf}": "blocks.{i}.mlp.fn.fc1.{leaf}",
    "blocks.{i}.mlp.fc2.{leaf}": "blocks.{i}.mlp.fn.fc2.{leaf}",
    "blocks.{i}.ls2.gamma": "blocks.{i}.mlp.post.gamma",
    "norm.{leaf}": "norm.{leaf}",
    "fc_norm.{leaf}": "pool.norm.{leaf}",
    "attn_pool.latent": "pool.query",
    "attn_pool.q.{leaf}": "pool.block.cross.fn.q.proj.{leaf}",
    "attn_pool.kv.{leaf}": Split("pool.block.cross.fn.k.proj.{leaf}", "pool.block.cross.fn.v.proj.{leaf}"),
    "attn_pool.proj.{leaf}": "pool.block.cross.fn.out.{leaf}",
    "attn_pool.norm.{leaf}": "pool.block.mlp.norm.{leaf}",
    "attn_pool.mlp.fc1.{leaf}": "pool.block.mlp.fn.fc1.{leaf}",
    "attn_pool.mlp.fc2.{leaf}": "pool.block.mlp.fn.fc2.{leaf}",
    "head.{leaf}": "head.{leaf}",
}

_HUGGING_FACE: Rules = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": Squeeze("positions.table"),
    "embeddings.patch_embeddings.projection.bias": "patch.proj.bias",
    "encoder.layer.{i}.layernorm_before.{leaf}": "blocks.{i}.attn.norm.{leaf}",
    "encoder.layer.{i}.attention.attention.query.{leaf}": "blocks.{i}.attn.fn.q.proj.{leaf}",
    "encoder.layer.{i}.attention.attention.key.{leaf}": "blocks.{i}.attn.fn.k.proj.{leaf}",
    "encoder.layer.{i}.attention.attention.value.{leaf}": "blocks.{i}.attn.fn.v.proj.{leaf}",
    "encoder.layer.{i}.attention.output.dense.{leaf}": "blocks.{i}.attn.fn.out.{leaf}",
    "encoder.layer.{i}.layernorm_after.{leaf}": "blocks.{i}.mlp.norm.{leaf}",
    "encoder.layer.{i}.intermediate.dense.{leaf}": "blocks.{i}.mlp.fn.fc1.{leaf}",
    "encoder.layer.{i}.output.dense.{leaf}": "blocks.{i}.mlp.fn.fc2.{leaf}",
    "layernorm.{leaf}": "norm.{leaf}",
    "pooler.dense.{leaf}": None,  # the tanh layer before the head of ImageNet-21k, which isn't in the checkpoints
}


def timm(config: ViTConfig) -> Table:
    """Return the table of timm's names; their patch projection is a convolution, whose kernel depends on the config."""
    return Table("timm", {"patch_embed.proj.weight": _kernel(config), **_TIMM})


def hugging_face(config: ViTConfig, prefix: str = "vit.") -> Table:
    """Return the table of Hugging Face's names on disk.

    Args:
        config: of the model.
        prefix: ``"vit."`` for ``ViTForImageClassification``, empty for a bare ``ViTModel``.
    """
    rules = {"embeddings.patch_embeddings.projection.weight": _kernel(config), **_HUGGING_FACE}
    head = {"classifier.{leaf}": "head.{leaf}"} if prefix else {}
    name = "huggingface" if prefix else "huggingface-bare"
    return Table(name, {**{prefix + theirs: ours for theirs, ours in rules.items()}, **head})


def _kernel(config: ViTConfig) -> Reshape:
    channels, patch = config.channels, config.patch
    return Reshape("patch.proj.weight", theirs=(-1, channels, patch, patch), ours=(-1, channels * patch * patch))


TIMM = timm(ViTConfig())
"""The names of timm for patches of 16 x 16 in RGB."""

MAKERS: Makers = {"vision.ViT": lambda config: ViT(from_plain(ViTConfig, config))}
"""What a bundle of this family may hold."""


@dataclass(frozen=True)
class ViTInfo:
    """Where a ViT came from.

    Attributes:
        layout: ``"timm"``, ``"huggingface"``, ``"huggingface-bare"`` or ``"bundle"``.
        source: for :func:`export_vit`; None for a bundle of a model that was never imported.
        labels: of the classes, if the folder says them.
        preprocessing: of the images, in the words of the layout.
    """

    layout: str
    source: Source | None
    labels: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=dict)


def load_vit(path: Path | str, config: ViTConfig | None = None) -> tuple[ViT, ViTInfo]:
    """Load a ViT from a file or folder of timm or Hugging Face, or from a bundle.

    Args:
        path: the file or folder.
        config: of the model; by default it is that of the folder's ``config.json``.

    Returns:
        The model in float32, and where it came from.

    Raises:
        InputError: if it is none of these, or any tensor is missing, unexpected or wrong.
    """
    path = Path(path)
    if is_bundle(path):
        vit, bundle = open_bundle(path, MAKERS)
        assert isinstance(vit, ViT)
        return vit, ViTInfo("bundle", bundle.source, bundle.labels, bundle.preprocessing)
    checkpoint = read(path)
    tensors, folder = checkpoint.tensors, checkpoint.path.parent
    from_timm = any(name.startswith("blocks.") for name in tensors)
    if not from_timm and not any(".layernorm_before." in name for name in tensors):
        raise InputError(f"{checkpoint.path} is no ViT: expected one of timm or Hugging Face")
    said = read_json(folder / "config.json") if config is None or (folder / "config.json").exists() else {}
    if from_timm:
        config = config or _config_of_timm(said, tensors, folder)
        table = timm(config)
    else:
        config = config or _config_of_hugging_face(said, tensors, folder)
        table = hugging_face(config, "vit." if any(name.startswith("vit.") for name in tensors) else "")
    made = config
    model, source = build(lambda: ViT(made), table, tensors, checkpoint.meta)
    return model, ViTInfo(table.name, source, _labels(said), _preprocessing(said, folder))


def export_vit(model: ViT, path: Path | str, source: Source | None = None, layout: str = "timm") -> None:
    """Write a ViT's weights as safetensors in the names that they came in, or in others; atomically.

    Args:
        model: the model.
        path: of the file.
        source: from :func:`load_vit`: dtypes are those of the source.
        layout: ``"timm"``, ``"huggingface"`` or ``"huggingface-bare"``, where there is no source.
    """
    layout = layout if source is None else source.table
    tables = {
        "timm": timm(model.config),
        "huggingface": hugging_face(model.config),
        "huggingface-bare": hugging_face(model.config, ""),
    }
    if layout not in tables:
        raise InputError(f"no ViT layout {layout!r}: choose one of {', '.join(tables)}")
    write_safetensors(path, tables[layout].export(model.state_dict(), source))


def _config_of_timm(said: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> ViTConfig:
    """The size by its name, what varies within a size by which tensors are there."""
    name = str(said.get("architecture", "")).partition(".")[0]
    if name not in PRESETS:
        raise InputError(
            f"{folder / 'config.json'} names the architecture {name!r}: expected one of {', '.join(PRESETS)}"
        )
    base = PRESETS[name]
    pool: Any = {"token": "cls", "avg": "mean", "map": "map"}.get(str(said.get("global_pool", "token")))
    fits = {"cls": "cls_token" in tensors, "mean": "fc_norm.weight" in tensors, "map": "attn_pool.latent" in tensors}
    if not fits.get(pool):
        raise InputError(f"{folder} pools by {said.get('global_pool')!r}, which is not known with these tensors")
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    patches = base.grid[0] * base.grid[1]
    rows = tensors["pos_embed"].shape[1] if "pos_embed" in tensors else 0
    return replace(
        base,
        classes=_rows(tensors, "head.weight"),
        pool=pool,
        cls_token="cls_token" in tensors,
        registers=registers,
        positions="patches" if rows == patches else "all",
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in tensors else None,
    )


def _config_of_hugging_face(said: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> ViTConfig:
    path = folder / "config.json"
    for name, value in {"model_type": "vit", "hidden_act": "gelu", "qkv_bias": True}.items():
        if said.get(name) != value:
            raise InputError(f"{path} is no ViT that is known: {name} is {said.get(name)!r}, expected {value!r}")
    names = {
        "patch": "patch_size",
        "channels": "num_channels",
        "dim": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "hidden": "intermediate_size",
        "eps": "layer_norm_eps",
    }
    lacking = [name for name in (*names.values(), "image_size") if name not in said]
    if lacking:
        raise InputError(f"{path} lacks {', '.join(lacking)}: not a ViT")
    size = said["image_size"]
    plain = {ours: said[theirs] for ours, theirs in names.items()}
    plain |= {"image": size if isinstance(size, list) else [size, size], "classes": _rows(tensors, "classifier.weight")}
    return from_plain(ViTConfig, plain, str(path))


def _rows(tensors: Mapping[str, Tensor], name: str) -> int:
    return tensors[name].shape[0] if name in tensors and tensors[name].ndim else 0


def _labels(said: Mapping[str, Any]) -> tuple[str, ...]:
    named = said.get("id2label")
    if isinstance(named, dict) and all(str(i) in named for i in range(len(named))):
        return tuple(str(named[str(i)]) for i in range(len(named)))
    listed = said.get("label_names")
    return tuple(map(str, listed)) if isinstance(listed, list) else ()


def _preprocessing(said: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / "preprocessor_config.json"
    given = read_json(path) if path.exists() else said.get("pretrained_cfg", {})
    return dict(given) if isinstance(given, dict) else {}
