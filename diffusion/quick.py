"""A denoiser in the precision that is fastest on its device, for solvers that compute in float32."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from core.nn.precision import Precision, fast
from diffusion.condition import Condition

__all__ = ["Quick", "first_weight", "quick"]


class Quick(nn.Module):
    """A model with weights of another type; it takes and returns float32.

    Args:
        model: as :class:`diffusion.dit.DiT`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.config = model.config
        self.dtype = first_weight(model).dtype

    def forward(self, x: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """See :meth:`diffusion.dit.DiT.forward`."""
        y: Tensor = self.model(x.to(self.dtype), t, condition)
        return y.float()

    def unconditional(self, condition: Condition) -> Condition:
        """See :meth:`diffusion.dit.DiT.unconditional`."""
        empty: Condition = self.model.unconditional(condition)
        return empty


def first_weight(model: nn.Module) -> Tensor:
    """A floating-point tensor of a model, for its type and its device; packed layers have only biases to show."""
    return next(tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())


@torch.no_grad()
def quick(model: nn.Module, precision: Precision = "auto") -> Quick:
    """Return a copy for inference; see :func:`core.nn.precision.fast`."""
    return Quick(fast(model, precision))
