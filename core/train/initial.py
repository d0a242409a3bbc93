"""What a training begins with, when it isn't random weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from core.errors import InputError

__all__ = ["Initial", "fill"]


class Initial(ABC):
    """Fills a model before its training; not called when a training goes on from a checkpoint of its own.

    So the checkpoint of a training is enough to use its result: what it began with may be gone by then.
    """

    @abstractmethod
    def __call__(self, model: nn.Module) -> None:
        """Change the weights of ``model`` in place.

        Raises:
            InputError: If the weights are missing or don't fit.
        """


def fill(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a model that has all of them and no others.

    Args:
        model: Changed in place.
        weights: By the model's own names.
        source: What to call them in messages.

    Raises:
        InputError: If the model is of another shape.
    """
    ours = model.state_dict()
    differ = sorted(
        name
        for name in weights.keys() | ours.keys()
        if name not in weights or name not in ours or weights[name].shape != ours[name].shape
    )
    if differ:
        raise InputError(f"{source} has another shape than the model: {differ[0]} differs; change the model's config")
    model.load_state_dict(weights)
