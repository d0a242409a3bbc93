"""Targets from a teacher's logits, centred so that no prototype takes all images."""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.train.processes import summed, world_size

__all__ = ["Centre", "Centring", "SinkhornKnopp", "full_precision"]


class Centring(Protocol):
    """How a teacher's logits become targets."""

    def __call__(self, logits: Tensor, temperature: float) -> Tensor:
        """Map logits (N, K) to probabilities (N, K)."""
        ...

    def update(self, logits: Tensor) -> None:
        """Learn from the logits (N, K) of a batch, after its targets were made."""
        ...


class Centre(nn.Module):
    """Softmax of the logits less their running mean (DINO, arXiv:2104.14294, equation 4).

    The mean of a batch is that of the rows of all processes, however many each has.

    Args:
        prototypes: K, the width of the logits.
        momentum: weight of the past in each update.
    """

    value: Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(prototypes))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Return the targets (N, K) for logits (N, K)."""
        return ((full_precision(logits) - self.value) / temperature).softmax(-1)

    @torch.no_grad()
    def update(self, logits: Tensor) -> None:
        """Move the centre towards the mean of the logits (N, K); without any row on any process it stays."""
        total = full_precision(logits).sum(0)
        count = summed(total.new_tensor(float(len(logits))))
        mean = summed(total) / count.clamp(min=1)
        weight = (count > 0).to(mean.dtype) * (1 - self.momentum)
        self.value.copy_(self.value * (1 - weight) + mean * weight)


class SinkhornKnopp(nn.Module):
    """Assignments in which all prototypes get equal shares of the batch (SwAV, arXiv:2006.09882, section 3.1).

    The batch is that of all processes, however many rows each has.

    Args:
        iterations: how often rows and columns are normalised in turn.
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__()
        self.iterations = iterations

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Return the targets (N, K) for logits (N, K); each row sums to 1."""
        x = full_precision(logits) / temperature
        # the common factor cancels; without it large logits would overflow
        top = x.max() if x.numel() else x.new_tensor(-torch.inf)
        if world_size() > 1:
            dist.all_reduce(top, dist.ReduceOp.MAX)
        q = (x - top).exp()
        count = summed(q.new_tensor(float(len(q))))
        for _ in range(self.iterations):
            q = q / (summed(q.sum(0)) * q.shape[1])
            q = q / (q.sum(1, keepdim=True) * count)
        return q * count

    def update(self, logits: Tensor) -> None:
        """Nothing: each batch is balanced by itself."""


def full_precision(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is: sums over thousands of prototypes need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
