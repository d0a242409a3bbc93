"""What a training begins with, when it isn't random weights."""

from abc import ABC, abstractmethod

from torch import nn

__all__ = ["Initial"]


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
