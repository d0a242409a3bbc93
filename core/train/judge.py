"""Whoever looks at generated pictures: what they are like, and what they show."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Judge", "Judgement"]


class Judgement(NamedTuple):
    """Of N pictures.

    Attributes:
        features: (N, D) float32.
        logits: (N, classes) float32, or None from whoever knows no classes.
    """

    features: Tensor
    logits: Tensor | None


class Judge(ABC):
    """An encoder, and perhaps a classifier, of pictures of any size; frozen."""

    @abstractmethod
    def __call__(self, pictures: Sequence[Tensor]) -> Judgement:
        """Judge pictures, each (H, W, C) uint8 with one or three channels."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Who judges, as plain data: figures by another judge can't be compared."""
