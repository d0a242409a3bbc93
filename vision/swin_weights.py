"""Swin checkpoints: the names of timm, Hugging Face, torchvision and the authors, both ways."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import InputError
from core.weights import (
    ZEROS,
    Makers,
    Rules,
    Source,
    Split,
    Table,
    build,
    from_plain,
    is_bundle,
    nested,
    open_bundle,
    read,
    write_safetensors,
)
from core.weights.published import Origin, labels, patch_kernel, pick, preprocessing, rows, said_by

from .swin import Swin, SwinConfig, stage_windows
from .swin_buffers import BUFFERS, Built
from .swin_presets import SWIN_PRESETS

__all__ = ["SWIN_LAYOUTS", "SWIN_MAKERS", "export_swin", "load_swin", "swin_table"]

SWIN_LAYOUTS = ("timm", "microsoft", "torchvision", "huggingface", "huggingface-bare")
"""The names that are known; the authors' are those of timm before its version 0.9."""

SWIN_MAKERS: Makers = {"vision.Swin": lambda config: Swin(from_plain(SwinConfig, config))}
"""What a bundle of this family may hold."""

# of a block, by version: timm's, the authors' and torchvision's names -> ours
_BLOCK: dict[int, Rules] = {
    1: {
        "norm1.{leaf}": "attn.norm.{leaf}",
        "norm2.{leaf}": "mlp.norm.{leaf}",
        "attn.relative_position_bias_table": "attn.fn.fn.bias.table",
        "attn.qkv.{leaf}": Split(*(f"attn.fn.fn.{part}.proj.{{leaf}}" for part in "qkv")),
        "attn.proj.{leaf}": "attn.fn.fn.out.{leaf}",
    },
    2: {
        "norm1.{leaf}": "attn.post.0.{leaf}",
        "norm2.{leaf}": "mlp.post.0.{leaf}",
        "attn.logit_scale": "attn.fn.fn.q.norm.log_scale",
        "attn.cpb_mlp.0.{leaf}": "attn.fn.fn.bias.fc1.{leaf}",
        "attn.cpb_mlp.2.{leaf}": "attn.fn.fn.bias.fc2.{leaf}",
        "attn.qkv.weight": Split(*(f"attn.fn.fn.{part}.proj.weight" for part in "qkv")),
        "attn.proj.{leaf}": "attn.fn.fn.out.{leaf}",
    },
}
_TIMM_MLP = {"mlp.fc1.{leaf}": "mlp.fn.fc1.{leaf}", "mlp.fc2.{leaf}": "mlp.fn.fc2.{leaf}"}
_TORCHVISION_MLP = {"mlp.0.{leaf}": "mlp.fn.fc1.{leaf}", "mlp.3.{leaf}": "mlp.fn.fc2.{leaf}"}
_TIMM_BIASES = {"attn.q_bias": "attn.fn.fn.q.proj.bias", "attn.v_bias": "attn.fn.fn.v.proj.bias"}
_TORCHVISION_BIASES = {"attn.qkv.bias": Split("attn.fn.fn.q.proj.bias", ZEROS, "attn.fn.fn.v.proj.bias")}
_HUGGING_FACE_BLOCK: dict[int, Rules] = {
    1: {
        "layernorm_before.{leaf}": "attn.norm.{leaf}",
        "layernorm_after.{leaf}": "mlp.norm.{leaf}",
        "attention.self.relative_position_bias_table": "attn.fn.fn.bias.table",
    },
    2: {
        "layernorm_before.{leaf}": "attn.post.0.{leaf}",
        "layernorm_after.{leaf}": "mlp.post.0.{leaf}",
        "attention.self.logit_scale": "attn.fn.fn.q.norm.log_scale",
        "attention.self.continuous_position_bias_mlp.0.{leaf}": "attn.fn.fn.bias.fc1.{leaf}",
        "attention.self.continuous_position_bias_mlp.2.{leaf}": "attn.fn.fn.bias.fc2.{leaf}",
    },
}
_HUGGING_FACE_BOTH: Rules = {
    "attention.self.query.{leaf}": "attn.fn.fn.q.proj.{leaf}",
    "attention.self.key.{leaf}": "attn.fn.fn.k.proj.{leaf}",
    "attention.self.value.{leaf}": "attn.fn.fn.v.proj.{leaf}",
    "attention.output.dense.{leaf}": "attn.fn.fn.out.{leaf}",
    "intermediate.dense.{leaf}": "mlp.fn.fc1.{leaf}",
    "output.dense.{leaf}": "mlp.fn.fc2.{leaf}",
}


class _Names:
    """How a layout calls the parts of a Swin; ``{n}`` is the number of a stage, ``{j}`` that of a block."""

    def __init__(self, layout: str, version: int) -> None:
        self.stage = "layers.{n}.blocks.{j}."
        # where the merging between stages n and n + 1 is: at the end of the former or at the start of the latter
        self.merge, self.merge_offset = "layers.{n}.downsample.", 1 if layout == "timm" else 0
        self.kernel, self.norm_in, self.norm = "patch_embed.proj.", "patch_embed.norm.", "norm."
        self.head = "head.fc." if layout == "timm" else "head."
        self.attention = "attn."
        self.block: Rules = {**_BLOCK[version], **_TIMM_MLP, **(_TIMM_BIASES if version == 2 else {})}
        if layout == "torchvision":
            self.stage, self.merge = "features.{odd}.{j}.", "features.{even}."
            self.kernel, self.norm_in = "features.0.0.", "features.0.2."
            biases = _TORCHVISION_BIASES if version == 2 else {}
            self.block = {**_BLOCK[version], **_TORCHVISION_MLP, **biases}
        elif layout.startswith("huggingface"):
            prefix = "" if layout.endswith("bare") else "swin." if version == 1 else "swinv2."
            self.stage, self.merge = prefix + "encoder." + self.stage, prefix + "encoder." + self.merge
            self.kernel = prefix + "embeddings.patch_embeddings.projection."
            self.norm_in, self.norm = prefix + "embeddings.norm.", prefix + "layernorm."
            self.head = "classifier."
            self.attention = "attention.self."
            self.block = {**_HUGGING_FACE_BLOCK[version], **_HUGGING_FACE_BOTH}


def swin_table(config: SwinConfig, layout: str, *, buffers: bool = True) -> Table:
    """Return the table of a layout's names for a model of this shape.

    Args:
        config: of the model.
        layout: one of :data:`SWIN_LAYOUTS`.
        buffers: whether the tables that follow from the windows are known too: old checkpoints have them.

    Raises:
        InputError: if there is no such layout.
    """
    if layout not in SWIN_LAYOUTS:
        raise InputError(f"no Swin layout {layout!r}: choose one of {', '.join(SWIN_LAYOUTS)}")
    names = _Names(layout, config.version)
    rules: dict[str, Any] = {
        names.kernel + "weight": patch_kernel(config.channels, config.patch),
        names.kernel + "bias": "patch.proj.bias",
        names.norm_in + "{leaf}": "patch_norm.{leaf}",
        names.norm + "{leaf}": "norm.{leaf}",
    }
    if not layout.endswith("bare"):
        rules[names.head + "{leaf}"] = "head.{leaf}"
    for number in range(len(config.depths)):
        stage = names.stage.replace("{n}", str(number)).replace("{odd}", str(2 * number + 1))
        rules |= nested(names.block, theirs=stage, ours=f"levels.{number}.stack.{{j}}.")
        if number:
            merge = names.merge.replace("{n}", str(number - 1 + names.merge_offset)).replace("{even}", str(2 * number))
            rules[merge + "norm.{leaf}"] = f"levels.{number}.merge.project.norm.{{leaf}}"
            rules[merge + "reduction.{leaf}"] = f"levels.{number}.merge.project.reduction.{{leaf}}"
    return Table(layout, rules | (_buffers(config, layout, names) if buffers else {}))


def _buffers(config: SwinConfig, layout: str, names: _Names) -> dict[str, Built]:
    kinds = dict(BUFFERS)
    if config.version == 1:
        del kinds["relative_coords_table"]
    rules: dict[str, Built] = {}
    for number, depth in enumerate(config.depths):
        windows = stage_windows(config, number)
        for block in range(depth):
            stage = names.stage.replace("{n}", str(number)).replace("{odd}", str(2 * number + 1))
            stage = stage.replace("{j}", str(block))
            for name, make in kinds.items():
                made: Callable[[], Tensor] = partial(make, windows, config.trained[number] if config.trained else 0)
                if name == "relative_position_index" and layout == "torchvision":
                    made = partial(_flat, made)
                if name != "attn_mask":
                    rules[stage + names.attention + name] = Built(made)
                elif any(windows.shift) and block % 2 and layout in ("timm", "microsoft"):
                    rules[stage + name] = Built(made)
    return rules


def _flat(made: Callable[[], Tensor]) -> Tensor:
    return made().flatten()


def load_swin(path: Path | str, config: SwinConfig | None = None) -> tuple[Swin, Origin]:
    """Load a Swin from a file or folder of timm, Hugging Face, torchvision or the authors, or from a bundle.

    Args:
        path: the file or folder.
        config: of the model; by default what the folder's ``config.json`` says. A file alone does not tell it.

    Returns:
        The model in float32, and where it came from.

    Raises:
        InputError: if it is none of these, or any tensor is missing, unexpected or wrong.
    """
    path = Path(path)
    if is_bundle(path):
        opened, bundle = open_bundle(path, SWIN_MAKERS)
        assert isinstance(opened, Swin)
        return opened, Origin("bundle", bundle.source, bundle.labels, bundle.preprocessing)
    checkpoint = read(path)
    tensors, folder = checkpoint.tensors, checkpoint.path.parent
    layout = _layout(tensors)
    if layout is None:
        raise InputError(f"{checkpoint.path} is no Swin: expected one of {', '.join(SWIN_LAYOUTS)}")
    said = said_by(folder, needed=config is None)
    if config is None:
        config = (_of_hugging_face if layout.startswith("huggingface") else _of_timm)(said, tensors, folder)
    made = config
    model, source = build(lambda: Swin(made), swin_table(made, layout), tensors, checkpoint.meta)
    return model, Origin(layout, source, labels(said), preprocessing(said, folder))


def export_swin(model: Swin, path: Path | str, source: Source | None = None, layout: str = "timm") -> None:
    """Write a Swin's weights as safetensors in the names that they came in, or in others; atomically.

    Args:
        model: the model.
        path: of the file.
        source: from :func:`load_swin`: dtypes and tables of the windows are those of the source.
        layout: one of :data:`SWIN_LAYOUTS`, where there is no source.

    Raises:
        InputError: if there is no such layout.
    """
    table = swin_table(model.config, layout if source is None else source.table, buffers=source is not None)
    write_safetensors(path, table.export(model.state_dict(), source))


def _layout(tensors: Mapping[str, Tensor]) -> str | None:
    if any(".attention.self.query." in name for name in tensors) and any("encoder.layers.0." in n for n in tensors):
        return "huggingface" if any(name.startswith(("swin.", "swinv2.")) for name in tensors) else "huggingface-bare"
    if "features.1.0.attn.qkv.weight" in tensors:
        return "torchvision"
    if "layers.0.blocks.0.attn.qkv.weight" in tensors:
        return "microsoft" if "layers.0.downsample.reduction.weight" in tensors else "timm"
    return None


def _of_timm(said: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> SwinConfig:
    name = str(said.get("architecture", "")).partition(".")[0]
    if name not in SWIN_PRESETS:
        expected = ", ".join(SWIN_PRESETS)
        raise InputError(f"{folder / 'config.json'} names the architecture {name!r}: expected one of {expected}")
    return replace(SWIN_PRESETS[name], classes=rows(tensors, "head.fc.weight") or rows(tensors, "head.weight"))


def _of_hugging_face(said: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> SwinConfig:
    path = folder / "config.json"
    version = {"swin": 1, "swinv2": 2}.get(str(said.get("model_type")))
    wanted = {"hidden_act": "gelu", "qkv_bias": True, "use_absolute_embeddings": False}
    odd = [name for name, value in wanted.items() if said.get(name, value) != value]
    if version is None or odd:
        name = odd[0] if odd else "model_type"
        raise InputError(f"{path} is no Swin that is known: {name} is {said.get(name)!r}")
    fields = {
        "image": "image_size",
        "patch": "patch_size",
        "channels": "num_channels",
        "dim": "embed_dim",
        "depths": "depths",
        "heads": "num_heads",
        "windows": "window_size",
        "mlp_ratio": "mlp_ratio",
    }
    plain = pick(said, fields, path, "Swin")
    size, window, stages = plain["image"], plain["windows"], plain["depths"]
    plain["image"] = size if isinstance(size, list) else [size, size]
    plain["windows"] = [window] * len(stages) if isinstance(stages, list) else window
    trained = said.get("pretrained_window_sizes", [])
    plain["trained"] = trained if isinstance(trained, list) and any(trained) else []
    plain |= {"version": version, "padding": "straight", "classes": rows(tensors, "classifier.weight")}
    return from_plain(SwinConfig, plain | {"eps": said.get("layer_norm_eps", 1e-5)}, str(path))
