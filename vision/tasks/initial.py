"""Trained encoders to begin with: from any checkpoint of our own tasks, a bundle, or published weights."""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from core.errors import InputError
from core.nn import resampled
from core.train.checkpoint import read_checkpoint, read_recipe
from core.train.initial import Initial, fill
from core.train.rebuild import rebuild
from core.weights import Bundle, is_bundle, read, read_bundle, save_bundle
from vision.mae import MAEConfig, MaskedAutoencoder
from vision.mae_weights import MAKERS as MAE_MAKERS
from vision.mae_weights import load_mae
from vision.vit import ViT, ViTConfig
from vision.weights import load_vit

__all__ = ["Pretrained", "encoder_of", "save_encoder", "transfer"]

SHAPE = ("patch", "channels", "dim", "depth", "heads", "mlp", "bias", "qk_norm", "pre_norm")
# what a task may have anew: the head, the pooling, the norm that goes with it, and the token of masked patches
OWN = ("head.", "pool.", "norm.", "mask_token")
TABLE = "positions.table"


class Pretrained(Initial):
    """Begins with the weights in a file or folder.

    A ViT takes the encoder that is found (:func:`encoder_of`); the head, and a pooling or a mask token that the encoder
    doesn't have, stay as they are. A masked autoencoder takes a whole one, any other model the same model in a
    ``.ckpt``.

    Args:
        path: A ``.ckpt`` of any of our tasks, a bundle, or a file or folder of timm, Hugging Face, or the original
            repositories.
        whole: Whether it is an error if anything would stay as it was: for a teacher, whose head must not be new.
    """

    def __init__(self, path: str, whole: bool = False) -> None:
        self.path = Path(path).expanduser()
        self.whole = whole

    def __call__(self, model: nn.Module) -> None:
        """Fill the model.

        Raises:
            InputError: If there is nothing that fits.
        """
        if isinstance(model, MaskedAutoencoder):
            fill(model, _autoencoder(self.path, model.config).state_dict(), str(self.path))
        elif isinstance(model, ViT):
            new = transfer(encoder_of(self.path, model.config), model, str(self.path))
            if self.whole and new:
                raise InputError(f"{self.path} has nothing for {', '.join(new)}: expected the whole of the model")
            rank_zero_info(f"weights from {self.path}; new: {', '.join(new) or 'nothing'}")
        elif self.path.suffix == ".ckpt":
            source = rebuild(self.path).model
            fill(model, source.state_dict(), f"the {type(source).__name__} in {self.path}")
        else:
            raise InputError(f"{self.path} can't fill a {type(model).__name__}: expected a ViT, or a .ckpt of ours")


def encoder_of(path: Path | str, like: ViTConfig | None = None) -> ViT:
    """Load the ViT that people should take from a file or folder.

    Of a checkpoint of ours this is what the task's ``encoder()`` gives: DINO's teacher, MAE's encoder, the average of
    the weights where there is one.

    Args:
        path: See :class:`Pretrained`.
        like: The shape that a published file without a ``config.json`` is expected to have; its head may differ.

    Raises:
        InputError: If it is none of these.
    """
    path = Path(path)
    if path.suffix == ".ckpt":
        task = rebuild(path)
        own = getattr(task, "encoder", None)
        encoder = own() if callable(own) else task.model
        if not isinstance(encoder, ViT):
            raise InputError(f"{path} trained a {type(encoder).__name__}: expected a ViT or a task with an encoder")
        return encoder
    if is_bundle(path) and read_bundle(path).model in MAE_MAKERS:
        return load_mae(path)[0].encoder
    if is_bundle(path):
        return load_vit(path)[0]
    checkpoint = read(path)
    if any(name.endswith("decoder_pred.weight") for name in checkpoint.tensors):
        return load_mae(path)[0].encoder
    if like is None or (checkpoint.path.parent / "config.json").exists():
        return load_vit(path)[0]
    return load_vit(path, _bare(like, checkpoint.tensors))[0]


def save_encoder(path: Path | str, folder: Path | str) -> None:
    """Make a bundle of the encoder in a checkpoint of ours; see :func:`encoder_of`.

    The bundle says how images were prepared (``preprocess`` of the training's data, as its recipe has it), and the
    names of the classes where there are any.

    Raises:
        InputError: If it is no such checkpoint, or the folder holds something else.
    """
    path = Path(path)
    recipe, encoder = read_recipe(path), encoder_of(path)
    prepared = recipe.get("data", {}).get("init_args", {}).get("preprocess") or {}
    names = read_checkpoint(path).get("class_names", ()) if encoder.config.classes else ()
    bundle = Bundle("vision.ViT", asdict(encoder.config), preprocessing=dict(prepared), labels=tuple(names))
    save_bundle(folder, encoder, bundle)


def transfer(source: ViT, target: ViT, what: str = "the weights") -> list[str]:
    """Copy what an encoder has learned into another ViT, whose positions may be for another size.

    Args:
        source: the encoder; not changed.
        target: the ViT, with or without a head.
        what: to call the source in messages.

    Returns:
        The modules of the target that stayed as they were.

    Raises:
        InputError: If they differ in more than image size, head and pooling.
    """
    unlike = [name for name in SHAPE if getattr(source.config, name) != getattr(target.config, name)]
    if unlike:
        name = unlike[0]
        raise InputError(
            f"{what} has {name} {getattr(source.config, name)!r}, the model {getattr(target.config, name)!r}: "
            "change the model's config"
        )
    theirs, ours = source.state_dict(), target.state_dict()
    if TABLE in theirs and TABLE in ours:
        theirs[TABLE] = _positions(source, target)
    fits = {name: theirs[name] for name in ours if name in theirs and theirs[name].shape == ours[name].shape}
    new = [name for name in ours if name not in fits]
    lacking = [name for name in new if not name.startswith(OWN)]
    if lacking:
        raise InputError(f"{what} lacks {len(lacking)} tensors of the model, such as {lacking[0]}")
    with torch.no_grad():
        for name, tensor in fits.items():
            ours[name].copy_(tensor)
    return sorted({name.rpartition(".")[0] or name for name in new})


def _positions(source: ViT, target: ViT) -> Tensor:
    """The source's table of positions for the target's grid; tokens that had none there get zeros."""
    assert source.positions is not None
    table, placed = source.positions.table.detach(), source.config.placed
    patches = resampled(table[placed:], source.config.grid, target.config.grid)
    front = torch.zeros(target.config.placed, table.shape[1])
    front[: min(placed, len(front))] = table[: min(placed, len(front))]
    return torch.cat([front, patches])


def _bare(like: ViTConfig, tensors: dict[str, Tensor]) -> ViTConfig:
    """The shape of a file that says nothing of itself: the target's, with the head and the pooling of the file."""
    classes = tensors["head.weight"].shape[0] if "head.weight" in tensors else 0
    mean = "fc_norm.weight" in tensors
    return replace(like, classes=classes, pool="mean" if mean else "cls" if like.cls_token else "normed mean")


def _autoencoder(path: Path, like: MAEConfig) -> MaskedAutoencoder:
    says = (path if path.is_dir() else path.parent) / "config.json"
    model = rebuild(path).model if path.suffix == ".ckpt" else load_mae(path, None if says.exists() else like)[0]
    if not isinstance(model, MaskedAutoencoder):
        raise InputError(f"{path} trained a {type(model).__name__}: expected a masked autoencoder")
    return model
