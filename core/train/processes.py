"""Tensors of all processes of a run; with one process, the tensor itself."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gathered", "gathered_items", "summed", "world_size"]


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def summed(x: Tensor) -> Tensor:
    """The sum over all processes of a tensor of one shape; without gradients."""
    if world_size() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def gathered(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks: (B, ...) -> (world * B, ...), B being the same on all.

    Gradients are those of a loss over all rows that every process computes alike, once the processes' gradients are
    averaged, as DDP does: a process passes on its own rows' share, times the number of processes.
    """
    world = world_size()
    if world == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world)]
    dist.all_gather(parts, x.detach().contiguous())
    mine = x.detach() + world * (x - x.detach())
    parts[dist.get_rank()] = mine
    return torch.cat(parts)


def gathered_items(mine: list[Any]) -> list[Any]:
    """The items of all processes, in the order of their ranks; each may have any number of them.

    They travel pickled, so tensors should be on the CPU.
    """
    if world_size() == 1:
        return mine
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, mine)
    return [item for part in parts for item in part]
