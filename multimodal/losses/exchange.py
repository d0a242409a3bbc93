"""Features and their gradients on the way between processes."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from core.train.processes import world_size

__all__ = ["all_rows", "logsumexp_of_all", "my_rows", "rank", "returned", "ring"]


def rank() -> int:
    """Which of the processes this is; 0 if it is alone."""
    return dist.get_rank() if world_size() > 1 else 0


def all_rows(x: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks: (B, D) -> (world * B, D), without gradients.

    B is the same on all processes.
    """
    if world_size() == 1:
        return x
    rows = x.new_empty(world_size() * len(x), *x.shape[1:])
    dist.all_gather(list(rows.chunk(world_size())), x.contiguous())
    return rows


def my_rows(count: int) -> slice:
    """Where this process's `count` rows lie among those of `all_rows`."""
    return slice(rank() * count, (rank() + 1) * count)


def returned(gradients: Tensor) -> Tensor:
    """Sum gradients of `all_rows` (world * B, D) over the processes; each gets those of its own rows (B, D)."""
    if world_size() == 1:
        return gradients
    mine = gradients.new_empty(len(gradients) // world_size(), *gradients.shape[1:])
    dist.reduce_scatter(mine, list(gradients.chunk(world_size())))
    return mine


def logsumexp_of_all(x: Tensor) -> Tensor:
    """The log of the sum over processes of exp(x), elementwise."""
    if world_size() == 1:
        return x
    top = x.clone()
    dist.all_reduce(top, dist.ReduceOp.MAX)
    total = (x - top).exp()
    dist.all_reduce(total)
    return total.log().add_(top)


def ring(text: Tensor, look: Callable[[Tensor], Tensor | None]) -> Tensor | None:
    """Show `look` the other processes' rows one process at a time, and bring the gradients that it returns home.

    Blocks of rows travel to the right and to the left at once, each for half of the way (as in open_clip), with the
    sum of their gradients beside them; at the end the sums go straight back to the owners. So a process never holds
    more than the one block that comes from each of its two neighbours.

    Args:
        text: this process's rows (B, D); B is the same on all processes.
        look: given another process's rows (B, D), returns the gradient for them (B, D); ``None`` on every process if
            gradients aren't wanted.

    Returns:
        The sum of the gradients for this process's rows that the others found, or ``None``.
    """
    # with an even number of processes the one opposite is reached from one side only
    hops = {1: world_size() // 2, -1: (world_size() - 1) // 2}
    blocks = {1: [text], -1: [text]}  # the rows, and the sum of their gradients once there is one
    for hop in range(1, hops[1] + 1):
        moving = [step for step in hops if hop <= hops[step]]
        arrived = iter(_swap([(step, x) for step in moving for x in blocks[step]]))
        for step in moving:
            block = [next(arrived) for _ in blocks[step]]
            found = look(block[0])
            if found is not None:
                block[1:] = [found if len(block) == 1 else found.add_(block[1])]
            blocks[step] = block
    homeward = [(-hops[step] * step, blocks[step][1]) for step in hops if hops[step] and len(blocks[step]) == 2]
    parts = _swap(homeward)
    return torch.stack(parts).sum(0) if parts else None


def _swap(sent: Sequence[tuple[int, Tensor]]) -> list[Tensor]:
    """Send tensors to the processes so many steps to the right; receive the like from as many steps to the left."""
    world, here = world_size(), rank()
    received = [torch.empty_like(x, memory_format=torch.contiguous_format) for _, x in sent]
    operations = [dist.P2POp(dist.isend, x.contiguous(), (here + step) % world) for step, x in sent]
    for (step, _), x in zip(sent, received, strict=True):
        operations.append(dist.P2POp(dist.irecv, x, (here - step) % world))
    for request in dist.batch_isend_irecv(operations) if operations else []:
        request.wait()
    return received
