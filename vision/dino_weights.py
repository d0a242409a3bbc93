"""Whole training checkpoints of facebookresearch/dino and dinov2: backbone and heads, of student and teacher.

dino stores ``{student, teacher, dino_loss, ...}`` with the names ``[module.]backbone.*`` and ``[module.]head.*``;
dinov2 ``{teacher}`` with ``backbone.*``, ``dino_head.*`` and, where patches have their own, ``ibot_head.*``.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.errors import InputError
from core.weights import Checkpoint, Rules, Table, check, load_into, read

from .dino_head import DINOHead
from .names import meta
from .vit import ViT

__all__ = ["HEAD", "Network", "export_network", "load_training"]

_HEAD: Rules = {
    "mlp.{i}.{leaf}": "mlp.{i}.{leaf}",
    "last_layer.weight_g": "last.scale",
    "last_layer.weight_v": "last.weight",
}
HEAD = Table("dino-head", _HEAD)
"""The names within a head, which dino and dinov2 share."""

PREFIXES = {"dino": {"dino": "head."}, "dinov2": {"dino": "dino_head.", "ibot": "ibot_head."}}
BACKBONE = "backbone."


class Network(NamedTuple):
    """A backbone and its heads: ``dino``, and perhaps ``ibot``."""

    model: ViT
    heads: Mapping[str, DINOHead]


def load_training(path: Path, student: Network, teacher: Network, centre: Tensor | None = None) -> None:
    """Fill student, teacher and DINO's centre with a training checkpoint; nothing in the file is executed.

    A file without a student (dinov2 publishes only the teacher) gives both the same weights. One without a centre
    leaves it as it is.

    Args:
        path: The file.
        student, teacher: What is filled.
        centre: Of the teacher's logits, (K,).

    Raises:
        InputError: If the file is no such checkpoint, or any tensor is missing, unexpected or wrong.
    """
    theirs = _read(path, "teacher").tensors
    mine = _optional(path, "student") or theirs
    centres = _optional(path, "dino_loss")
    parts = [*_parts(path, student, mine), *_parts(path, teacher, theirs)]
    for module, table, tensors in parts:
        check(module, table, tensors)
    given = centres.get("center") if centres else None
    if centre is not None and given is not None:
        if given.numel() != centre.numel():
            raise InputError(f"{path}: the centre has {given.numel()} prototypes, the head {centre.numel()}")
        centre.copy_(given.flatten())
    for module, table, tensors in parts:
        load_into(module, table, tensors)


def export_network(network: Network, layout: str = "dinov2") -> dict[str, Tensor]:
    """Return backbone and heads in the names of ``"dino"`` or ``"dinov2"``.

    Raises:
        InputError: If there is no such layout, or it has no place for one of the heads.
    """
    if layout not in PREFIXES:
        raise InputError(f"no layout {layout!r} of a training: choose one of {', '.join(PREFIXES)}")
    homeless = sorted(set(network.heads) - set(PREFIXES[layout]))
    if homeless:
        raise InputError(f"the layout {layout!r} has no place for the head {', '.join(homeless)}: choose 'dinov2'")
    backbone = meta(network.model.config).export(network.model.state_dict())
    out = {BACKBONE + name: tensor for name, tensor in backbone.items()}
    for head, module in network.heads.items():
        for name, tensor in HEAD.export(module.state_dict()).items():
            out[PREFIXES[layout][head] + name] = tensor
    return out


def _parts(
    path: Path, network: Network, tensors: Mapping[str, Tensor]
) -> list[tuple[nn.Module, Table, dict[str, Tensor]]]:
    """Each part of a network, the table of its names, and the tensors that are meant for it."""
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    layout = "dinov2" if any(name.startswith("dino_head.") for name in tensors) else "dino"
    prefixes = {BACKBONE: BACKBONE, **PREFIXES[layout]}
    groups: dict[str, dict[str, Tensor]] = {part: {} for part in prefixes}
    for name, tensor in tensors.items():
        part = next((part for part, prefix in prefixes.items() if name.startswith(prefix)), None)
        if part is None:
            raise InputError(f"{path}: {name} is neither of the backbone nor of a head of dino or dinov2")
        groups[part][name.removeprefix(prefixes[part])] = tensor
    backbone = {_flat(name): tensor for name, tensor in groups.pop(BACKBONE).items()}
    modules: list[tuple[nn.Module, Table, dict[str, Tensor]]] = []
    shared = "ibot" in groups and not groups["ibot"]
    for name in [*network.heads, *(name for name, found in groups.items() if found and name not in network.heads)]:
        if name not in network.heads:
            raise InputError(f"{path} has a head for {name}, the task has none: configure it")
        # patches that have a head of their own here begin with the one that they shared there
        source = "dino" if name == "ibot" and (shared or layout == "dino") else name
        modules.append((network.heads[name], HEAD, groups[source]))
    if not network.model.config.mask_token:
        backbone.pop("mask_token", None)
    elif "mask_token" not in backbone and layout == "dino":
        # a training without masks has none: it stays as it began
        backbone["mask_token"] = network.model.state_dict()["mask_token"]
    return [*modules, (network.model, meta(network.model.config), backbone)]


def _flat(name: str) -> str:
    """The name without the chunks in which dinov2 may hold its blocks: ``blocks.1.7.norm1.weight``."""
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)


def _read(path: Path, key: str) -> Checkpoint:
    # dino keeps its command line beside the weights; the class holds values and nothing that runs
    with torch.serialization.safe_globals([argparse.Namespace]):
        return read(path, key)


def _optional(path: Path, key: str) -> dict[str, Tensor] | None:
    """A set of tensors of a file that was read before, if it is there."""
    try:
        return _read(path, key).tensors
    except InputError:
        return None
