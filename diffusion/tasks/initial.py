"""A trained denoiser to begin with: of our own tasks, a bundle, or published weights."""

from pathlib import Path

from torch import nn

from core.train.initial import Initial, fill
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
        own = {name: weight for name, weight in model.state_dict().items() if name.startswith("label.")}
        theirs = {
            name: weight
            for name, weight in source.state_dict().items()
            if not name.startswith("label.") or (name in own and own[name].shape == weight.shape)
        }
        fill(model, own | theirs, f"the {type(source).__name__} in {self.path}")
