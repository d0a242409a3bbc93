"""What two towers begin with: released weights for both, or a trained encoder for the image tower."""

from pathlib import Path

from torch import nn

from core.errors import InputError
from core.train.initial import Initial
from multimodal.load import find_towers, load_towers
from multimodal.tasks.trained import load_trained_towers
from vision.tasks.initial import encoder_of, transfer
from vision.vit import ViT

__all__ = ["ImageTower", "Released"]


class Released(Initial):
    """Begins with the weights of a whole model.

    Args:
        source: A path, a ``.ckpt`` of ours included, or a name as of :func:`multimodal.load.find_towers`.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def __call__(self, model: nn.Module) -> None:
        """Fill the model.

        Raises:
            InputError: If there is no such model, or it has another shape.
        """
        path = find_towers(self.source)
        source: nn.Module = load_trained_towers(path)[0] if path.suffix == ".ckpt" else load_towers(path)[0]
        theirs, ours = source.state_dict(), model.state_dict()
        differ = sorted(
            name
            for name in theirs.keys() | ours.keys()
            if name not in theirs or name not in ours or theirs[name].shape != ours[name].shape
        )
        if differ:
            raise InputError(
                f"{self.source} has another shape than the model: {differ[0]} differs; change the model's config"
            )
        model.load_state_dict(theirs)


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
