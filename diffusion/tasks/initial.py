"""A trained denoiser to begin with: of our own tasks, a bundle, or published weights."""

from pathlib import Path

from torch import nn

from core.errors import InputError
from core.train.initial import Initial
from core.train.rebuild import rebuild
from diffusion.dit import DiT
from diffusion.weights import load_denoiser

__all__ = ["Pretrained"]


class Pretrained(Initial):
    """Begins with the weights in a file or folder; what is trained for other classes keeps its own table of them.

    Args:
        path: A ``.ckpt`` of ours, a bundle, or a file or folder that :func:`diffusion.weights.load_denoiser` reads.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()

    def __call__(self, model: nn.Module) -> None:
        """Fill the model.

        Raises:
            InputError: If what is there is no denoiser of the same shape.
        """
        if self.path.suffix == ".ckpt":
            source = rebuild(self.path).model
        else:
            source = load_denoiser(self.path, model.config if isinstance(model, DiT) else None)[0]
        theirs, ours = source.state_dict(), model.state_dict()
        for name in [name for name in theirs if name.startswith("label.")]:
            if name not in ours or ours[name].shape != theirs[name].shape:
                theirs.pop(name)
        unlike = sorted(
            name
            for name in theirs.keys() | ours.keys()
            if not name.startswith("label.")
            and (name not in theirs or name not in ours or theirs[name].shape != ours[name].shape)
        )
        if unlike:
            raise InputError(
                f"{self.path} holds a {type(source).__name__} of another shape: {len(unlike)} tensors differ, such as "
                f"{unlike[0]}; change the model's config"
            )
        model.load_state_dict(theirs, strict=False)
