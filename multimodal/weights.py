"""Two-tower checkpoints of OpenAI, open_clip, Hugging Face and our bundles: in, and out as they came."""

import re
from collections.abc import Mapping
from dataclasses import replace
from math import exp, isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import InputError
from core.weights import (
    Checkpoint,
    Makers,
    Source,
    Table,
    build,
    from_plain,
    is_bundle,
    open_bundle,
    read,
    write_safetensors,
)
from core.weights.files import read_json, section
from core.weights.published import Origin, pick, preprocessing
from multimodal.names import hugging_face, open_clip, openai
from multimodal.presets import PRESETS, with_quick_gelu
from multimodal.text import TextConfig
from multimodal.two_towers import TwoTowers, TwoTowersConfig
from vision.presets import PRESETS as ENCODERS
from vision.vit import ViTConfig

__all__ = ["LAYOUTS", "MAKERS", "export_two_towers", "load_two_towers"]

MAKERS: Makers = {"multimodal.TwoTowers": lambda config: TwoTowers(from_plain(TwoTowersConfig, config))}
"""What a bundle of this family may hold."""

LAYOUTS = ("open_clip", "open_clip-custom", "openai", "huggingface")

CONFIG = "open_clip_config.json"


def load_two_towers(path: Path | str, config: TwoTowersConfig | None = None) -> tuple[TwoTowers, Origin]:
    """Load a CLIP, SigLIP or SigLIP 2 from a file or folder of OpenAI, open_clip or Hugging Face, or from a bundle.

    Args:
        path: the file or folder.
        config: of the model; by default that of the folder's ``open_clip_config.json`` or ``config.json``, or the
            preset that the tensors fit, where there is neither. OpenAI's archives are known to have the approximate
            GELU; of other files without a config it isn't known, and they are taken to have the exact one.

    Returns:
        The model in float32 and evaluation mode, and where it came from.

    Raises:
        InputError: if it is none of these, or any tensor is missing, unexpected or wrong.
    """
    path = Path(path)
    if is_bundle(path):
        held, bundle = open_bundle(path, MAKERS)
        assert isinstance(held, TwoTowers)
        return held.eval(), Origin("bundle", bundle.source, bundle.labels, bundle.preprocessing)
    checkpoint = read(path)
    try:
        table, made, prepared = _table_for(checkpoint, config)
    # a config can hold anything where a number should be
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the config beside {checkpoint.path} can't be followed: {error}") from error
    model, source = build(lambda: TwoTowers(made), table, checkpoint.tensors, checkpoint.meta)
    return model.eval(), Origin(table.name, source, (), prepared)


def _table_for(checkpoint: Checkpoint, config: TwoTowersConfig | None) -> tuple[Table, TwoTowersConfig, dict[str, Any]]:
    """The names and the shape of a checkpoint, and how images are prepared for it."""
    tensors, folder = checkpoint.tensors, checkpoint.path.parent
    custom = "text.token_embedding.weight" in tensors
    if "text_model.embeddings.token_embedding.weight" in tensors:
        made = config or _of_hugging_face(read_json(folder / "config.json"), tensors, folder / "config.json")
        numbered, flat = "text_model.embeddings.position_ids" in tensors, _flat(tensors)
        return hugging_face(made, numbered, flat), made, preprocessing({}, folder)
    if custom or "token_embedding.weight" in tensors:
        said = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
        archive = checkpoint.format == "torchscript" or "input_resolution" in tensors
        if config is not None:
            made = config
        elif said:
            made = _of_open_clip(section(said, "model_cfg"), folder / CONFIG)
        else:
            made = _of_tensors(tensors, checkpoint.path, archive)
        table = openai(made) if archive and not custom else open_clip(made, custom)
        return table, made, section(said, "preprocess_cfg")
    raise InputError(f"{checkpoint.path} holds no CLIP or SigLIP: expected one of OpenAI, open_clip or Hugging Face")


def export_two_towers(
    model: TwoTowers, path: Path | str, source: Source | None = None, layout: str = "open_clip"
) -> None:
    """Write a two-tower model's weights as safetensors in the names that they came in, or in others; atomically.

    Args:
        model: the model.
        path: of the file.
        source: from :func:`load_two_towers`: dtypes are those of the source.
        layout: one of ``LAYOUTS``, where there is no source.

    Raises:
        InputError: if there is no such layout, or it has no place for one of the weights.
    """
    write_safetensors(
        path, _table(model.config, layout if source is None else source.table).export(model.state_dict(), source)
    )


def _table(config: TwoTowersConfig, layout: str) -> Table:
    if layout in ("open_clip", "open_clip-custom"):
        return open_clip(config, custom=layout.endswith("custom"))
    if layout == "openai":
        return openai(config)
    if layout.startswith("huggingface"):
        return hugging_face(config, "-numbered" in layout, "-flat" in layout)
    raise InputError(f"no two-tower layout {layout!r}: choose one of {', '.join(LAYOUTS)}")


_POOLS: dict[str, Any] = {"argmax": "argmax", "eos": "eot", "last": "last"}


def _of_open_clip(said: Mapping[str, Any], path: Path) -> TwoTowersConfig:
    """The shape in the words of open_clip's ``model_cfg``."""
    vision, text = section(said, "vision_cfg"), section(said, "text_cfg")
    unknown = [key for key in ("hf_model_name", "embed_cls") if text.get(key)]
    if unknown or isinstance(vision.get("layers"), list) or "multimodal_cfg" in said:
        raise InputError(f"{path} describes a model that is no CLIP or SigLIP with Transformers of their own")
    pool = str(text.get("pool_type", "argmax"))
    if pool not in _POOLS:
        raise InputError(f"{path} pools texts by {pool!r}: expected {', '.join(_POOLS)}")
    act: Any = "quick gelu" if said.get("quick_gelu") else "gelu"
    width = int(text.get("width", 512))
    heads = int(text.get("heads", 8))
    tanh = section(text, "act_kwargs").get("approximate") == "tanh"
    texts = TextConfig(
        vocab=int(text.get("vocab_size", 49_408)),
        context=int(text.get("context_length", 77)),
        dim=width,
        depth=int(text.get("layers", 12)),
        heads=heads,
        hidden=int(width * text.get("mlp_ratio", 4.0)),
        mlp="gelu tanh" if tanh else act,
        causal=not text.get("no_causal_mask", False),
        pool=_POOLS[pool],
        eot=text.get("eos_id"),
        pad=int(text.get("pad_id", 0)),
        embed=None if text.get("proj_type") == "none" else int(said.get("embed_dim", 512)),
        embed_bias=bool(text.get("proj_bias", False)),
        eps=float(section(text, "norm_kwargs").get("eps", 1e-5)),
    )
    scale = said.get("init_logit_scale")
    return TwoTowersConfig(
        _image_of_open_clip(vision, act, path),
        texts,
        image_proj="timm_model_name" not in vision or vision.get("timm_proj") == "linear",
        logit_bias=said.get("init_logit_bias"),
        **({} if scale is None else {"logit_scale": exp(float(scale))}),
    )


def _image_of_open_clip(vision: Mapping[str, Any], act: Any, path: Path) -> ViTConfig:
    side = vision.get("image_size", 224)
    image = (side, side) if isinstance(side, int) else tuple(side)
    name = vision.get("timm_model_name")
    if name is not None:
        if name not in ENCODERS:
            raise InputError(f"{path} names the image tower {name!r}, which is not known here")
        encoder = ENCODERS[name]
        return replace(encoder, image=(_whole(image[0], encoder.patch), _whole(image[1], encoder.patch)), classes=0)
    if vision.get("pool_type", "tok") != "tok" or vision.get("attentional_pool"):
        raise InputError(f"{path} pools images in a way that is not known here: expected the class token")
    width = int(vision.get("width", 768))
    return ViTConfig(
        image=image,
        patch=int(vision.get("patch_size", 16)),
        patch_bias=False,
        dim=width,
        depth=int(vision.get("layers", 12)),
        heads=width // int(vision.get("head_width", 64)),
        hidden=int(width * vision.get("mlp_ratio", 4.0)),
        mlp=act,
        classes=0,
        pre_norm=True,
        eps=float(section(vision, "norm_kwargs").get("eps", 1e-5)),
    )


def _whole(side: int, patch: int) -> int:
    """What of a side in pixels whole patches cover: SigLIP's 384 are 378 for patches of 14."""
    return side - side % patch


def _of_tensors(tensors: Mapping[str, Tensor], path: Path, approximate: bool) -> TwoTowersConfig:
    """The preset whose widths, depths and patch the tensors have."""
    found = next((config for config in PRESETS.values() if _sizes(config) == _sizes_of(tensors)), None)
    if found is None:
        raise InputError(
            f"{path} has no {CONFIG} beside it, and its tensors are of no size that is known: add the file"
        )
    places = next(
        tensors[name] for name in ("visual.positional_embedding", "visual.trunk.pos_embed") if name in tensors
    )
    patch, prefix = found.image.patch, 1 if places.ndim == 2 else 0
    side = isqrt(places.shape[-2] - prefix) * patch
    rows = next(tensors[name] for name in ("positional_embedding", "text.positional_embedding") if name in tensors)
    image, text = replace(found.image, image=(side, side)), replace(found.text, context=len(rows))
    found = replace(found, image=image, text=text)
    return with_quick_gelu(found) if approximate else found


def _sizes(config: TwoTowersConfig) -> tuple[int, ...]:
    image, text = config.image, config.text
    assert isinstance(image, ViTConfig)
    return image.patch, image.dim, image.depth, text.vocab, text.dim, text.depth


def _sizes_of(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    kernels = ("visual.conv1.weight", "visual.trunk.patch_embed.proj.weight")
    kernel = next((tensors[name] for name in kernels if name in tensors), None)
    words = next(tensors[name] for name in ("token_embedding.weight", "text.token_embedding.weight") if name in tensors)
    if kernel is None or kernel.ndim != 4 or words.ndim != 2:
        return ()
    depths = [_depth(tensors, "visual."), _depth(tensors, "text.") or _depth(tensors, "transformer.")]
    return kernel.shape[-1], kernel.shape[0], depths[0], words.shape[0], words.shape[1], depths[1]


def _depth(tensors: Mapping[str, Tensor], tower: str) -> int:
    found = (re.search(r"(?:resblocks|blocks)\.(\d+)\.", name) for name in tensors if name.startswith(tower))
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _flat(tensors: Mapping[str, Tensor]) -> bool:
    """Whether patches are projected by a linear layer and not by a convolution: SigLIP 2 for images of any shape."""
    kernel = tensors.get("vision_model.embeddings.patch_embedding.weight")
    return kernel is not None and kernel.ndim == 2


_ACTS: dict[str, Any] = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu tanh", "quick_gelu": "quick gelu"}
_NAMES = {
    "dim": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
}
# what a config.json leaves out, because it is as in transformers' classes
_COMMON = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "patch_size": 16,
    "image_size": 224,
    "num_channels": 3,
}
_CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_CLIP_TEXT = {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "vocab_size": 49_408,
    "max_position_embeddings": 77,
    "eos_token_id": 49_407,
    "pad_token_id": 1,
}
_SIGLIP_TEXT = {"vocab_size": 32_000, "max_position_embeddings": 64, "pad_token_id": 1}


def _of_hugging_face(said: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> TwoTowersConfig:
    kind = said.get("model_type")
    if kind not in ("clip", "siglip", "siglip2"):
        raise InputError(f"{path} is of the type {kind!r}: expected clip, siglip or siglip2")
    clip = kind == "clip"
    own = _CLIP if clip else _SIGLIP
    vision = {**_COMMON, **own, **({"patch_size": 32} if clip else {}), **section(said, "vision_config")}
    text = {**_COMMON, **own, **(_CLIP_TEXT if clip else _SIGLIP_TEXT), **section(said, "text_config")}
    acts = {str(tower["hidden_act"]) for tower in (vision, text)}
    if acts - _ACTS.keys():
        raise InputError(f"{path} has the activations {', '.join(sorted(acts))}: known are {', '.join(_ACTS)}")
    side = _whole(int(vision["image_size"]), int(vision["patch_size"]))
    if _flat(tensors):  # images of any shape; positions were trained on a square
        side = isqrt(int(vision.get("num_patches", 256))) * int(vision["patch_size"])
    image = ViTConfig(
        image=(side, side),
        patch=int(vision["patch_size"]),
        channels=int(vision["num_channels"]),
        classes=0,
        mlp=_ACTS[vision["hidden_act"]],
        eps=float(vision["layer_norm_eps"]),
        **pick(vision, _NAMES, path, "CLIP or SigLIP"),
    )
    width = int(text["hidden_size"])
    embed = int(said.get("projection_dim", 512)) if clip else int(text.get("projection_size", width))
    # files from before transformers 4.31 say 2, and mean the highest id
    eot = int(text["eos_token_id"]) if clip and text["eos_token_id"] != 2 else None
    texts = TextConfig(
        vocab=int(text["vocab_size"]),
        context=int(text["max_position_embeddings"]),
        mlp=_ACTS[text["hidden_act"]],
        causal=clip,
        pool="last" if not clip else "argmax" if eot is None else "eot",
        eot=eot,
        pad=int(text["pad_token_id"]),
        embed=embed,
        embed_bias=not clip,
        eps=float(text["layer_norm_eps"]),
        **pick(text, _NAMES, path, "CLIP or SigLIP"),
    )
    if clip:
        return TwoTowersConfig(replace(image, patch_bias=False, pre_norm=True), texts)
    image = replace(image, cls_token=False, pool="map", positions="patches")
    return TwoTowersConfig(image, texts, image_proj=False, logit_scale=10.0, logit_bias=-10.0)
