"""Checkpoints of DiT, SiT and Stable Diffusion 3 and our bundles: in, and out as they came."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import InputError
from core.nn import sinusoids_2d
from core.weights import Makers, Source, Table, build, from_plain, is_bundle, open_bundle, read, write_safetensors
from core.weights.files import read_json
from core.weights.published import Origin, labels, pick, rows, said_by

from .dit import DiT, DiTConfig
from .mmdit import MMDiT, MMDiTConfig
from .names import POSITIONS, diffusers, facebook, stable_diffusion_3
from .presets import SIZES

__all__ = ["MAKERS", "Denoiser", "export_denoiser", "load_denoiser"]

MAKERS: Makers = {
    "diffusion.DiT": lambda config: DiT(from_plain(DiTConfig, config)),
    "diffusion.MMDiT": lambda config: MMDiT(from_plain(MMDiTConfig, config)),
}
"""What a bundle of this family may hold."""

Denoiser = DiT | MMDiT


def load_denoiser(path: Path | str, config: DiTConfig | None = None) -> tuple[Denoiser, Origin]:
    """Load a DiT, SiT or MMDiT from a file or folder.

    Args:
        path: a bundle; a ``.pt`` of facebookresearch/DiT or SiT; or a model of diffusers, or a pipeline with one in
            its folder ``transformer``.
        config: of a ``.pt``; by default that of DiT as far as the tensors tell. A ``.pt`` doesn't tell whether it is
            a SiT: give ``dit_config("SiT-XL/2")``.

    Returns:
        The model in float32, and where it came from, with the names of the classes if the folder has them.

    Raises:
        InputError: if it is none of these, or any tensor is missing, unexpected or wrong.
    """
    path = Path(path)
    if is_bundle(path):
        model, bundle = open_bundle(path, MAKERS)
        assert isinstance(model, DiT | MMDiT)
        return model, Origin("bundle", bundle.source, bundle.labels, bundle.preprocessing)
    index = path / "model_index.json"
    pipeline = read_json(index) if index.is_file() else {}
    checkpoint = read(path / "transformer" if pipeline else path)
    tensors, place = checkpoint.tensors, checkpoint.path
    if "x_embedder.proj.weight" in tensors:
        made = config or _config_of_tensors(tensors, place)
        return _built(lambda: DiT(made), facebook(made), tensors, checkpoint.meta)
    said, place = said_by(place.parent, needed=True), place.parent / "config.json"
    if said.get("_class_name") == "SD3Transformer2DModel":
        theirs = _config_of_stable_diffusion_3(said, place)
        return _built(lambda: MMDiT(theirs), stable_diffusion_3(theirs), tensors, checkpoint.meta)
    # the first conversion of DiT is called by the name of a class that had all of diffusers' models
    if said.get("_class_name") in ("DiTTransformer2DModel", "Transformer2DModel"):
        ours = config or _config_of_diffusers(said, place)
        meta = {**checkpoint.meta, "positions": POSITIONS in tensors}
        tensors = {POSITIONS: sinusoids_2d(ours.grid[0], ours.grid[1], ours.dim)[None], **tensors}
        dit, origin = _built(lambda: DiT(ours), diffusers(ours), tensors, meta)
        return dit, replace(origin, labels=labels(pipeline))
    raise InputError(
        f"{checkpoint.path} is no DiT: expected the names of facebookresearch/DiT, or a config.json of diffusers' "
        f"DiTTransformer2DModel or SD3Transformer2DModel, not {said.get('_class_name')!r}"
    )


def export_denoiser(
    model: Denoiser, path: Path | str, source: Source | None = None, layout: str = "facebook-dit"
) -> None:
    """Write a model's weights as safetensors in the names that they came in, or in others; atomically.

    Args:
        model: the model.
        path: of the file.
        source: from :func:`load_denoiser`: dtypes are those of the source.
        layout: ``"facebook-dit"`` or ``"diffusers-dit"``, where there is no source; an MMDiT has one layout only.

    Raises:
        InputError: if there is no such layout, or it has no place for one of the weights.
    """
    layout = layout if source is None else source.table
    if isinstance(model, MMDiT):
        table = stable_diffusion_3(model.config)
    elif layout in _TABLES:
        table = _TABLES[layout](model.config)
    else:
        raise InputError(f"no DiT layout {layout!r}: choose one of {', '.join(_TABLES)}")
    tensors = table.export(model.state_dict(), source)
    if layout == "diffusers-dit" and not (source is not None and source.meta.get("positions")):
        tensors.pop(POSITIONS, None)
    write_safetensors(path, tensors)


_TABLES = {"facebook-dit": facebook, "diffusers-dit": diffusers}


def _built(
    make: Callable[[], Denoiser], table: Table, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> tuple[Denoiser, Origin]:
    model, source = build(make, table, tensors, meta)
    return model, Origin(table.name, source)


def _config_of_tensors(tensors: Mapping[str, Tensor], path: Path) -> DiTConfig:
    """The size from the tensors alone; heads are those of the public model of the same width, or 64 wide."""
    names = ("x_embedder.proj.weight", "pos_embed", "final_layer.linear.weight", "blocks.0.mlp.fc1.weight")
    found = [tensors.get(name) for name in names]
    kernel, positions, last, wide = found
    if kernel is None or positions is None or last is None or wide is None or kernel.ndim != 4 or positions.ndim != 3:
        raise InputError(f"{path} is no DiT: expected {', '.join(names)}")
    dim, channels, patch = int(kernel.shape[0]), int(kernel.shape[1]), int(kernel.shape[2])
    side = isqrt(int(positions.shape[1]))
    return DiTConfig(
        image=(side * patch, side * patch),
        channels=channels,
        patch=patch,
        dim=dim,
        depth=1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")),
        heads=next((size.heads for size in SIZES.values() if size.dim == dim), max(1, dim // 64)),
        hidden=int(wide.shape[0]),
        classes=max(rows(tensors, "y_embedder.embedding_table.weight") - 1, 0),
        out_channels=int(last.shape[0]) // patch**2,
    )


def _config_of_diffusers(said: Mapping[str, Any], path: Path) -> DiTConfig:
    fixed = {"norm_type": "ada_norm_zero", "activation_fn": "gelu-approximate", "attention_bias": True}
    _expect(said, {**fixed, "norm_elementwise_affine": False}, path)
    names = {
        "channels": "in_channels",
        "patch": "patch_size",
        "depth": "num_layers",
        "heads": "num_attention_heads",
        "image": "sample_size",
        "classes": "num_embeds_ada_norm",
        "mlp_eps": "norm_eps",
    }
    plain = pick(said, {**names, "dim": "attention_head_dim"}, path, "DiT")
    plain |= {"image": [plain["image"]] * 2, "dim": plain["dim"] * plain["heads"], "shift": 1}
    return from_plain(DiTConfig, {**plain, "out_channels": said.get("out_channels")}, str(path))


def _config_of_stable_diffusion_3(said: Mapping[str, Any], path: Path) -> MMDiTConfig:
    names = {
        "channels": "in_channels",
        "patch": "patch_size",
        "depth": "num_layers",
        "heads": "num_attention_heads",
        "head_dim": "attention_head_dim",
        "image": "sample_size",
        "text_dim": "joint_attention_dim",
        "pooled_dim": "pooled_projection_dim",
        "most": "pos_embed_max_size",
    }
    plain = pick(said, names, path, "Stable Diffusion 3")
    if said.get("qk_norm") not in (None, "rms_norm"):
        raise InputError(f"{path} has qk_norm {said['qk_norm']!r}: expected rms_norm or null")
    plain |= {"image": [plain["image"]] * 2, "qk_norm": said.get("qk_norm") is not None}
    plain |= {"dual": said.get("dual_attention_layers") or (), "out_channels": said.get("out_channels")}
    return from_plain(MMDiTConfig, plain, str(path))


def _expect(said: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """See that settings that are built in here are as they are here."""
    for name, value in wanted.items():
        if said.get(name) != value:
            raise InputError(f"{path} is no DiT that is known: {name} is {said.get(name)!r}, expected {value!r}")
