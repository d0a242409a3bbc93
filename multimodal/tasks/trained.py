"""The two towers of a checkpoint of ours."""

from pathlib import Path
from typing import Any

from core.errors import InputError
from core.train.checkpoint import read_recipe
from core.train.rebuild import rebuild
from core.weights.published import Origin
from multimodal.coca import CoCa
from multimodal.two_towers import TwoTowers

__all__ = ["load_trained_towers", "trained_towers"]


def trained_towers(path: Path | str) -> bool:
    """Whether a ``.ckpt`` is of a task of this package.

    Raises:
        InputError: If the file is no checkpoint of ``sensorium fit``.
    """
    return str((read_recipe(Path(path)).get("model") or {}).get("class_path")).startswith("multimodal.")


def load_trained_towers(path: Path | str) -> tuple[TwoTowers | CoCa, str, Origin]:
    """Load what a ``.ckpt`` of ``sensorium fit`` was trained for; with averaged weights where there are some.

    Returns:
        The model in evaluation mode; the tokenizer that it was trained with, a name or path as of
        :func:`multimodal.find_tokenizer.open_tokenizer`; and where it came from: ``preprocessing`` is the transform
        that it was evaluated with.

    Raises:
        InputError: If the file is no such checkpoint, or the task trained no two towers.
    """
    path = Path(path)
    model: Any = rebuild(path).model
    if not isinstance(model, TwoTowers | CoCa):
        raise InputError(f"{path} trained a {type(model).__name__}, which has no towers for images and texts")
    data = read_recipe(path).get("data") or {}
    given = data.get("init_args") or data
    origin = Origin("checkpoint", None, (), dict(given.get("preprocess") or {}))
    return model.eval(), str(given.get("tokenizer") or "clip"), origin
