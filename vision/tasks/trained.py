"""The image encoder of a checkpoint of ours."""

from pathlib import Path
from typing import Any

from core.errors import InputError
from core.train.checkpoint import read_checkpoint, read_recipe
from core.train.rebuild import rebuild
from core.weights.published import Origin
from vision.load import Encoder
from vision.swin import Swin
from vision.vit import ViT

__all__ = ["load_trained"]


def load_trained(path: Path | str) -> tuple[Encoder, Origin]:
    """Load what a ``.ckpt`` of ``sensorium fit`` was trained for, in evaluation mode.

    Of a self-supervised task that is what it recommends, such as DINO's teacher; of a classifier all of it, head
    included; with the average of the weights where there is one.

    Returns:
        The model, and where it came from: ``labels`` are the classes' names, ``preprocessing`` the ``class_path`` and
        the ``init_args`` of the transform that it was evaluated with.

    Raises:
        InputError: If the file is no such checkpoint, or the task trained no image encoder.
    """
    path = Path(path)
    task: Any = rebuild(path)
    model = task.encoder() if hasattr(task, "encoder") else task.model
    if not isinstance(model, ViT | Swin):
        raise InputError(f"{path} trained a {type(model).__name__}, which is no image encoder")
    data = read_recipe(path).get("data") or {}
    preprocess = (data.get("init_args") or data).get("preprocess") or {}
    labels = read_checkpoint(path).get("class_names") or ()
    return model.eval(), Origin("checkpoint", None, tuple(labels), dict(preprocess))
