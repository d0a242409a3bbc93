"""What published checkpoints of all families have in common: where one came from, and what its folder says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import InputError

from .files import read_json
from .rules import Reshape
from .source import Source

__all__ = ["Origin", "labels", "patch_kernel", "pick", "preprocessing", "rows", "said_by"]


@dataclass(frozen=True)
class Origin:
    """Where a model came from.

    Attributes:
        layout: the format, e.g. ``"timm"``, ``"huggingface"`` or ``"bundle"``.
        source: for the export; None for a bundle of a model that was never imported.
        labels: of the classes, if the folder says them.
        preprocessing: of the images, in the words of the layout.
    """

    layout: str
    source: Source | None
    labels: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=dict)


def patch_kernel(channels: int, patch: int) -> Reshape:
    """Return the rule that reads the kernel of a patch convolution as our matrix."""
    return Reshape("patch.proj.weight", theirs=(-1, channels, patch, patch), ours=(-1, channels * patch * patch))


def said_by(folder: Path, needed: bool) -> dict[str, Any]:
    """Return the folder's ``config.json``, or nothing if there is none and none is needed.

    Raises:
        InputError: if it is needed and missing, or no JSON.
    """
    path = folder / "config.json"
    return read_json(path) if needed or path.exists() else {}


def pick(said: Mapping[str, Any], names: Mapping[str, str], path: Path, what: str) -> dict[str, Any]:
    """Return their fields under our names.

    Args:
        said: their config.
        names: ours to theirs.
        path: of their config.
        what: the model, for the message.

    Raises:
        InputError: if one is missing.
    """
    lacking = [theirs for theirs in names.values() if theirs not in said]
    if lacking:
        raise InputError(f"{path} lacks {', '.join(lacking)}: not a {what}")
    return {ours: said[theirs] for ours, theirs in names.items()}


def rows(tensors: Mapping[str, Tensor], name: str) -> int:
    """Return the number of rows of a tensor, 0 if it isn't there: the classes of a head."""
    return tensors[name].shape[0] if name in tensors and tensors[name].ndim else 0


def labels(said: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes that a config of timm or Hugging Face gives, if any."""
    named = said.get("id2label")
    if isinstance(named, dict) and all(str(i) in named for i in range(len(named))):
        return tuple(str(named[str(i)]) for i in range(len(named)))
    listed = said.get("label_names")
    return tuple(map(str, listed)) if isinstance(listed, list) else ()


def preprocessing(said: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return how images are prepared, in the words of the folder."""
    path = folder / "preprocessor_config.json"
    given = read_json(path) if path.exists() else said.get("pretrained_cfg", {})
    return dict(given) if isinstance(given, dict) else {}
