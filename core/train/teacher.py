"""A model that another one learns from."""

from contextlib import AbstractContextManager
from typing import Generic, Literal, Self, TypeVar

import torch
from torch import nn

from core.train.initial import Initial

__all__ = ["DTYPES", "Frozen"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

M = TypeVar("M", bound=nn.Module)


class Frozen(nn.Module, Generic[M]):
    """A frozen model that is never in training mode; a subclass says what is asked of it.

    Args:
        model: The model.
        initial: Fills it before the training.
        precision: What it computes in.
    """

    def __init__(
        self,
        model: M,
        initial: Initial | None = None,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__()
        self.model: M = model.requires_grad_(False).eval()
        self.initial = initial
        self.dtype = DTYPES[precision]

    def begin(self) -> None:
        """Fill the model."""
        if self.initial is not None:
            self.initial(self.model)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def computing(self, kind: str) -> AbstractContextManager[object]:
        """Where it computes: in its precision, on a device of a kind such as "cpu"."""
        return torch.autocast(kind, self.dtype, enabled=self.dtype != torch.float32)
