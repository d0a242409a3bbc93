"""Any image encoder from any file: bundles, timm, Hugging Face, the authors' own, and checkpoints of our training."""

from pathlib import Path
from typing import Any

from core.errors import InputError
from core.weights import is_bundle, read, read_bundle

from .checkpoints import Origin
from .swin import Swin
from .vit import ViT

__all__ = ["Encoder", "load_encoder"]

Encoder = ViT | Swin


def load_encoder(path: Path | str) -> tuple[Encoder, Origin]:
    """Load the image encoder in a file or folder, in float32.

    Of a masked autoencoder it is the encoder; of a self-supervised checkpoint of ours what the task recommends, such as
    DINO's teacher; of a classifier all of it, head included.

    Args:
        path: a bundle, a ``.ckpt`` of ``sensorium fit``, or weights with the names of timm, Hugging Face, torchvision
            or the original repositories.

    Returns:
        The model in evaluation mode, and where it came from; for a ``.ckpt`` the preprocessing is the ``class_path``
        and the ``init_args`` of the transform that it was evaluated with.

    Raises:
        InputError: if there is none.
    """
    path = Path(path)
    model, origin = _trained(path) if path.suffix == ".ckpt" else _published(path)
    return model.eval(), origin


def _trained(path: Path) -> tuple[Encoder, Origin]:
    # only here: whoever reads weights must not load a trainer
    from core.train.checkpoint import read_checkpoint, read_recipe
    from core.train.rebuild import rebuild

    task: Any = rebuild(path)
    model = task.encoder() if hasattr(task, "encoder") else task.model
    if not isinstance(model, ViT | Swin):
        raise InputError(f"{path} trained a {type(model).__name__}, which is no image encoder")
    data = read_recipe(path).get("data") or {}
    preprocess = (data.get("init_args") or data).get("preprocess") or {}
    labels = read_checkpoint(path).get("class_names") or ()
    return model, Origin("checkpoint", None, tuple(labels), dict(preprocess))


def _published(path: Path) -> tuple[Encoder, Origin]:
    from .mae_weights import MAKERS as MASKED
    from .mae_weights import load_mae
    from .swin_weights import SWIN_MAKERS, load_swin
    from .weights import load_vit

    if is_bundle(path):
        kind = read_bundle(path).model
        if kind in MASKED:
            masked, info = load_mae(path)
            return masked.encoder, Origin("bundle", None, preprocessing=info.preprocessing)
        return load_swin(path) if kind in SWIN_MAKERS else load_vit(path)
    names = read(path).tensors
    if any(".relative_position_bias_table" in name or ".logit_scale" in name for name in names):
        return load_swin(path)
    if any(name.endswith("decoder_pred.weight") for name in names):
        masked, info = load_mae(path)
        return masked.encoder, Origin(info.layout, None, preprocessing=info.preprocessing)
    return load_vit(path)
