"""ViT checkpoints of timm, Hugging Face, Meta's repositories and our bundles: in, and out as they came."""

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import InputError
from core.weights import Makers, Source, build, from_plain, is_bundle, open_bundle, read, write_safetensors
from core.weights.published import Origin, labels, pick, preprocessing, rows, said_by

from .names import TIMM, hugging_face, meta, timm
from .presets import PRESETS
from .vit import ViT, ViTConfig

__all__ = ["MAKERS", "TIMM", "export_vit", "hugging_face", "load_vit", "meta", "timm"]

MAKERS: Makers = {"vision.ViT": lambda config: ViT(from_plain(ViTConfig, config))}
"""What a bundle of this family may hold."""

LAYOUTS = ("timm", "huggingface", "huggingface-bare", "meta")


def load_vit(path: Path | str, config: ViTConfig | None = None) -> tuple[ViT, Origin]:
    """Load a ViT from a file or folder of timm, Hugging Face or Meta, or from a bundle.

    Args:
        path: the file or folder.
        config: of the model; by default it is that of the folder's ``config.json``, or follows from the tensors where
            there is no such file (DINO, DINOv2, DINOv3, MAE, DeiT as published).

    Returns:
        The model in float32, and where it came from.

    Raises:
        InputError: if it is none of these, or any tensor is missing, unexpected or wrong.
    """
    path = Path(path)
    if is_bundle(path):
        vit, bundle = open_bundle(path, MAKERS)
        assert isinstance(vit, ViT)
        return vit, Origin("bundle", bundle.source, bundle.labels, bundle.preprocessing)
    checkpoint = read(path)
    tensors, folder = checkpoint.tensors, checkpoint.path.parent
    said = said_by(folder, needed=False)
    if any(name.startswith("blocks.") for name in tensors):
        by_name = "architecture" in said
        made = config or (_config_of_timm(said, tensors, folder) if by_name else _config_of_tensors(tensors, folder))
        ours = {"mask_token", "register_tokens", "storage_tokens"} & set(tensors)
        table = meta(made) if ours else timm(made)
    elif (prefix := _prefix(tensors)) is not None:
        made = config or _config_of_hugging_face(said, tensors, prefix, folder)
        table = hugging_face(made, prefix)
    else:
        raise InputError(f"{checkpoint.path} is no ViT: expected one of timm, Hugging Face or Meta")
    model, source = build(lambda: ViT(made), table, tensors, checkpoint.meta)
    return model, Origin(table.name, source, labels(said), preprocessing(said, folder))


def export_vit(model: ViT, path: Path | str, source: Source | None = None, layout: str = "timm") -> None:
    """Write a ViT's weights as safetensors in the names that they came in, or in others; atomically.

    Args:
        model: the model.
        path: of the file.
        source: from :func:`load_vit`: dtypes are those of the source.
        layout: one of ``LAYOUTS``, where there is no source.

    Raises:
        InputError: if there is no such layout, or it has no place for one of the weights.
    """
    layout = layout if source is None else source.table
    if layout == "timm":
        table = timm(model.config)
    elif layout == "meta":
        table = meta(model.config)
    elif layout.startswith("huggingface"):
        prefix = {"huggingface": None, "huggingface-bare": ""}.get(layout, layout.removeprefix("huggingface-"))
        table = hugging_face(model.config, prefix)
    else:
        raise InputError(f"no ViT layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    write_safetensors(path, table.export(model.state_dict(), source))


def _config_of_timm(said: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> ViTConfig:
    """The size by its name, what varies within a size by which tensors are there."""
    name = str(said.get("architecture", "")).partition(".")[0]
    if name not in PRESETS:
        raise InputError(
            f"{folder / 'config.json'} names the architecture {name!r}: expected one of {', '.join(PRESETS)}"
        )
    base = PRESETS[name]
    pool = _pool(str(said.get("global_pool", "token")), tensors)
    if pool is None:
        raise InputError(f"{folder} pools by {said.get('global_pool')!r}, which is not known with these tensors")
    varied = _varied(tensors)
    # a table may be for another size of images than the name says
    side = said.get("pretrained_cfg", {}).get("input_size") if isinstance(said.get("pretrained_cfg"), dict) else None
    image = tuple(side[1:]) if isinstance(side, list) and len(side) == 3 else base.image
    if "pos_embed" in tensors:
        patches = (image[0] // base.patch) * (image[1] // base.patch)
        varied["positions"] = "patches" if tensors["pos_embed"].shape[1] == patches else "all"
    return replace(base, classes=rows(tensors, "head.weight"), pool=pool, image=image, **varied)


def _config_of_tensors(tensors: Mapping[str, Tensor], folder: Path) -> ViTConfig:
    """The size from the tensors alone: heads are 64 wide in all that is published without a config, or 128 in 7B."""
    kernel = tensors.get("patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4 or "norm.weight" not in tensors:
        raise InputError(f"{folder} has no config.json, and its tensors are of no ViT that is known: add the file")
    dim, channels, patch = int(kernel.shape[0]), int(kernel.shape[1]), int(kernel.shape[2])
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    wide = next((tensors[n] for n in ("blocks.0.mlp.w3.weight", "blocks.0.mlp.fc2.weight") if n in tensors), None)
    varied = _varied(tensors)
    config = ViTConfig(
        patch=patch,
        channels=channels,
        dim=dim,
        depth=depth,
        heads=max(1, dim // (128 if dim == 4096 else 64)),
        hidden=None if wide is None else int(wide.shape[1]),
        mlp="swiglu" if "blocks.0.mlp.w3.weight" in tensors else "gelu",
        classes=rows(tensors, "head.weight"),
        pool=_pool("token" if "cls_token" in tensors else "avg", tensors) or "normed mean",
        **varied,
    )
    if config.positions == "rotary":
        return replace(config, eps=1e-5, image=(16 * patch, 16 * patch))
    places = int(tensors["pos_embed"].shape[1])
    side = isqrt(places)  # "patches" only, or class and distillation token too
    if side * side != places:
        config = replace(config, positions="no registers" if config.registers else "all")
        side = isqrt(places - config.placed)
    else:
        config = replace(config, positions="patches")
    return replace(config, image=(side * patch, side * patch))


def _varied(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What tells itself by its tensors in the names of timm and Meta."""
    registers = next((tensors[n] for n in ("reg_token", "register_tokens", "storage_tokens") if n in tensors), None)
    scaled = "blocks.0.ls1.gamma" in tensors or "blocks.0.gamma_1" in tensors
    varied: dict[str, Any] = {
        "cls_token": "cls_token" in tensors,
        "distilled": "dist_token" in tensors,
        "registers": 0 if registers is None else int(registers.shape[1]),
        "mask_token": "mask_token" in tensors,
        "layer_scale": 1e-5 if scaled else None,
        "qk_norm": "blocks.0.attn.q_norm.weight" in tensors,
        "pre_norm": "norm_pre.weight" in tensors,
    }
    if "pos_embed" not in tensors:
        varied["positions"] = "rotary"
        biased = "blocks.0.attn.q_bias" in tensors or "blocks.0.attn.qkv.bias" in tensors
        varied["bias"] = "qvo" if biased else "o"
    return varied


def _pool(said: str, tensors: Mapping[str, Tensor]) -> Any:
    if said == "token" and "cls_token" in tensors:
        return "distilled" if "dist_token" in tensors else "cls"
    if said == "avg":
        return "mean" if "fc_norm.weight" in tensors else "normed mean"
    return "map" if said == "map" and "attn_pool.latent" in tensors else None


_ACTS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu tanh", "quick_gelu": "quick gelu", "silu": "swiglu"}
_TYPES: dict[str, dict[str, Any]] = {
    "vit": {},
    "deit": {"pool": "distilled", "distilled": True},
    "dinov2": {"positions": "no registers", "mask_token": True, "layer_scale": 1e-5},
    "dinov2_with_registers": {"positions": "no registers", "mask_token": True, "layer_scale": 1e-5},
    "dinov3_vit": {"positions": "rotary", "mask_token": True, "layer_scale": 1e-5},
    "siglip_vision_model": {"pool": "map", "cls_token": False, "positions": "patches"},
    "clip_vision_model": {"pre_norm": True, "patch_bias": False},
}


def _prefix(tensors: Mapping[str, Tensor]) -> str | None:
    """What stands before the names of Hugging Face's encoder; None if this is none of theirs."""
    marks = ("embeddings.patch_embeddings.", "embeddings.patch_embedding.")
    name = next((name for name in tensors if any(mark in name for mark in marks)), None)
    return None if name is None else name[: name.index("embeddings.patch_embedding")]


def _config_of_hugging_face(
    said: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str, folder: Path
) -> ViTConfig:
    path = folder / "config.json"
    kind = str(said.get("model_type"))
    act = _ACTS.get(str(said.get("hidden_act")))
    if kind not in _TYPES or act is None or said.get("qkv_bias", True) is not True:
        raise InputError(
            f"{path} is no ViT that is known: model_type is {kind!r}, hidden_act {said.get('hidden_act')!r}, qkv_bias "
            f"{said.get('qkv_bias')!r}; known are {', '.join(_TYPES)}, {', '.join(_ACTS)}, with biases"
        )
    names = {
        "patch": "patch_size",
        "channels": "num_channels",
        "dim": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "eps": "layer_norm_eps",
        "image": "image_size",
    }
    plain = pick(said, names, path, "ViT")
    size = plain["image"]
    plain |= {"image": size if isinstance(size, list) else [size, size], "mlp": act, **_TYPES[kind]}
    plain["registers"] = said.get("num_register_tokens", 0)
    plain["classes"] = rows(tensors, "classifier.weight") or rows(tensors, "cls_classifier.weight")
    if kind == "deit" and "cls_classifier.weight" not in tensors:
        plain["pool"] = "cls"
    if kind == "dinov3_vit":
        flags = {"q": "query_bias", "k": "key_bias", "v": "value_bias", "o": "proj_bias"}
        plain["bias"] = "".join(part for part, flag in flags.items() if said.get(flag, True))
    if said.get("use_swiglu_ffn"):
        plain["mlp"] = "swiglu"
    plain["hidden"] = said.get("intermediate_size") or _width(tensors, prefix)
    return from_plain(ViTConfig, plain, str(path))


def _width(tensors: Mapping[str, Tensor], prefix: str) -> int | None:
    """The width inside DINOv2's feed-forward branches, which its config leaves open."""
    names = (f"{prefix}encoder.layer.0.mlp.{name}.weight" for name in ("fc2", "weights_out"))
    return next((int(tensors[name].shape[-1]) for name in names if name in tensors), None)
