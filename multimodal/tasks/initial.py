"""What a training begins with: a whole model that was trained before, or trained parts of one."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import InputError
from core.train.initial import Initial, fill
from core.train.rebuild import rebuild
from core.weights import fetch, is_bundle, read, read_bundle
from multimodal.coca import CoCa
from multimodal.decoder import Decoder
from multimodal.decoder_config import KINDS
from multimodal.decoder_weights import is_decoder, load_decoder
from multimodal.load import find_towers, load_towers
from multimodal.tasks.trained import load_trained_towers
from multimodal.two_towers import Towers, TwoTowers
from multimodal.vlm.eye import Eye
from multimodal.vlm.gated import GatedVisionLanguageModel
from multimodal.vlm.model import VisionLanguageModel
from multimodal.vlm.weights import is_vlm, load_vlm
from vision.tasks.initial import encoder_of, transfer
from vision.vit import ViT, ViTConfig

__all__ = ["ImageTower", "Parts", "Released"]

_SEEING = (VisionLanguageModel, GatedVisionLanguageModel)
_VOCABULARY = ("tokens.weight", "head.weight")  # of a decoder: a row for each token
_LOOKING = (".cross.", ".dense.")  # the branches of a gated model's decoder that no language model has


class Released(Initial):
    """Begins with the weights of a whole model: two towers, a language model, or one that sees.

    The vocabulary of a language model may be larger than that of its source: what comes behind begins as the mean of
    the others (https://nlp.stanford.edu/~johnhew/vocab-expansion.html).

    Args:
        source: A path, a ``.ckpt`` of ours included, or ``owner/name`` of the Hub; for two towers also a name as of
            :func:`multimodal.load.find_towers`.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def __call__(self, model: nn.Module) -> None:
        """Fill the model.

        Raises:
            InputError: If there is no such model, or it has another shape.
        """
        if isinstance(model, Decoder | VisionLanguageModel | GatedVisionLanguageModel):
            fill(model, _with_rows(_language(self.source).state_dict(), model), self.source)
            return
        path = find_towers(self.source)
        source: nn.Module = load_trained_towers(path)[0] if path.suffix == ".ckpt" else load_towers(path)[0]
        fill(model, source.state_dict(), self.source)


class Parts(Initial):
    """Begins a model that sees with parts that were trained by themselves; what joins them is new.

    Args:
        decoder: The language model: see :class:`Released`, also for its vocabulary. Of one that sees, its decoder.
        eye: An image encoder (see :class:`ImageTower`), or the image tower of a CLIP, SigLIP, or a model that sees.
            Positions are resized to the eye's grid.
    """

    def __init__(self, decoder: str | None = None, eye: str | None = None) -> None:
        if decoder is None and eye is None:
            raise InputError("name at least one of the parts to begin with: decoder, eye")
        self.decoder, self.eye = decoder, eye

    def __call__(self, model: nn.Module) -> None:
        """Fill the parts.

        Raises:
            InputError: If the model doesn't see, there is no such part, or it has another shape.
        """
        if not isinstance(model, _SEEING):
            raise InputError(f"a {type(model).__name__} has no eye: use multimodal.tasks.initial.Released")
        if self.decoder is not None:
            source = _language(self.decoder)
            weights = getattr(source, "decoder", source).state_dict()
            ours = model.decoder.state_dict()
            if isinstance(model, GatedVisionLanguageModel):
                weights |= {name: w for name, w in ours.items() if any(branch in name for branch in _LOOKING)}
            fill(model.decoder, _with_rows(weights, model.decoder), self.decoder)
        if self.eye is not None:
            if not isinstance(model.eye, Eye):
                raise InputError(f"the model's eye is a {type(model.eye).__name__}: expected one with a ViT")
            tower = model.eye.tower
            transfer(_image_tower(self.eye, tower.config), tower, self.eye)


class ImageTower(Initial):
    """Begins with a trained image encoder; the text tower is new (LiT, arXiv:2111.07991, locks the image tower too).

    Args:
        path: Of an encoder: a ``.ckpt`` of any of our tasks, a bundle, or weights of timm, Hugging Face, ....
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()

    def __call__(self, model: nn.Module) -> None:
        """Fill the image tower.

        Raises:
            InputError: If there is no encoder, or the image tower is not of its shape.
        """
        tower = getattr(model, "image", None)
        if not isinstance(tower, ViT):
            raise InputError(f"a {type(model).__name__} has no ViT for an image tower")
        transfer(encoder_of(self.path, tower.config), tower, str(self.path))


def _language(source: str) -> nn.Module:
    """The language model, or the one that sees, that a name stands for."""
    path = fetch(source)
    if path.suffix == ".ckpt":
        found: Any = rebuild(path).model
        if not isinstance(found, (Decoder, *_SEEING)):
            raise InputError(f"{source} trained a {type(found).__name__}: expected a language model")
        return found
    if is_vlm(path):
        return load_vlm(path)[0]
    if is_decoder(path):
        return load_decoder(path)[0]
    raise InputError(
        f"{source} holds no language model that is known: expected a .ckpt, a bundle, or a folder of {', '.join(KINDS)}"
    )


def _image_tower(source: str, like: ViTConfig) -> ViT:
    """The image encoder that a name stands for, be it a part of something."""
    path = find_towers(source)
    whole: Any = None
    if path.suffix == ".ckpt":
        whole = rebuild(path).model
    elif is_vlm(path):
        whole = load_vlm(path)[0]
    elif _are_towers(path):
        whole = load_towers(path)[0]
    if isinstance(whole, _SEEING):
        found: Any = getattr(whole.eye, "tower", None)
    else:
        found = whole.image if isinstance(whole, Towers) else encoder_of(path, like)
    if not isinstance(found, ViT):
        raise InputError(f"{source} sees by a {type(found).__name__}: expected a ViT")
    return found


def _are_towers(path: Path) -> bool:
    if is_bundle(path):
        return read_bundle(path).model in (f"multimodal.{kind.__name__}" for kind in (TwoTowers, CoCa))
    return any("token_embedding." in name for name in read(path).tensors)


def _with_rows(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights with rows for all tokens of a model that knows more: the mean of those that there are."""
    ours = model.state_dict()
    for name, rows in weights.items():
        more = len(ours[name]) - len(rows) if name in ours and name.endswith(_VOCABULARY) else 0
        if more > 0:
            weights[name] = torch.cat([rows, rows.mean(0, keepdim=True).expand(more, -1)])
    return weights
