"""Exponential moving average of the weights, kept in float32 beside the model and inside its checkpoint."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

__all__ = ["EMA"]


class EMA(nn.Module):
    """Averages of a module's trainable parameters, as frozen parameters under the same names.

    As frozen parameters they travel with the module that holds this one: into the state dict, to the device, and
        through
    distributed strategies, which neither reduce nor broadcast them at each step. They are made by copying parameter
    by parameter, never by copying the module, so a module that FSDP2 has sharded is averaged shard by shard (make
    this after sharding).

    Args:
        module: What to average.
        decay: Weight of the past in each update, once warmed up. Earlier it is (1 + t) / (10 + t) after t updates, so
            that the random initial weights are soon forgotten (the rule of TensorFlow's
            ``ExponentialMovingAverage``).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay of an average must be in [0, 1), not {decay}")
        self.decay = decay
        for name, parameter in _trainable(module):
            _place(self, name, nn.Parameter(parameter.detach().clone().float(), requires_grad=False))
        self._held: list[Tensor] | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EMA":
        """Move to a device, but never to another precision (``bf16-true``): small steps would be rounded away."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)

    def decay_at(self, step: int) -> float:
        """The weight of the past in update ``step`` (from 0)."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the averages towards the module's present weights; ``step`` counts the updates before this one."""
        averages: list[Tensor] = list(self.parameters())
        present = [parameter.detach().to(torch.float32) for _, parameter in _trainable(module)]
        torch._foreach_lerp_(averages, present, 1 - self.decay_at(step))

    @torch.no_grad()
    def reset(self, module: nn.Module) -> None:
        """Start again from the module's present weights."""
        for average, (_, parameter) in zip(self.parameters(), _trainable(module), strict=True):
            average.copy_(parameter)

    @torch.no_grad()
    def swap_in(self, module: nn.Module) -> None:
        """Put the averages into the module, for evaluation; its own weights are held until :meth:`swap_out`."""
        if self._held is not None:
            return
        _reshard(module)
        self._held = []
        for average, (_, parameter) in zip(self.parameters(), _trainable(module), strict=True):
            self._held.append(parameter.detach().clone())
            parameter.copy_(average)

    @torch.no_grad()
    def swap_out(self, module: nn.Module) -> None:
        """Give the module its own weights back."""
        if self._held is None:
            return
        _reshard(module)
        for held, (_, parameter) in zip(self._held, _trainable(module), strict=True):
            parameter.copy_(held)
        self._held = None

    def held(self, module: nn.Module) -> dict[str, Tensor]:
        """The module's own weights by name while the averages are swapped in; empty otherwise."""
        if self._held is None:
            return {}
        return {name: held for held, (name, _) in zip(self._held, _trainable(module), strict=True)}


def _trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def _reshard(module: nn.Module) -> None:
    """Let FSDP2 drop the whole parameters that it may keep after a forward pass: the shards are what counts."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _place(root: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Register a parameter under a dotted name, making the empty modules on its way."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        child = root._modules[part]
        assert child is not None
        root = child
    root.register_parameter(leaf, parameter)
