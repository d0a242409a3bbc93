"""Losses whose gradients are known in closed form: value and gradients are made together, in the forward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["Gradients", "closed_form"]

Gradients = Sequence[Tensor | None]
Compute = Callable[[Sequence[bool]], tuple[Tensor, Gradients]]


def closed_form(compute: Compute, *inputs: Tensor) -> Tensor:
    """Return `compute`'s value as a differentiable function of `inputs`.

    Nothing but the inputs and their gradients is kept. The gradients are handed out by the first backward pass; a
    second one through the same graph makes them again. They can't be differentiated themselves.

    Args:
        compute: given which inputs need a gradient, returns the value and a gradient for each of those (of the input's
            shape, in any dtype, owned by nobody else), ``None`` for the others. It runs without autograd and autocast.
        inputs: what the value depends on.

    Returns:
        The value that `compute` returned. Its backward pass raises `InputError` if asked for a graph of the gradients.
    """
    needed = [torch.is_grad_enabled() and x.requires_grad for x in inputs]
    value = _ClosedForm.apply(compute, needed, *inputs)
    assert isinstance(value, Tensor)
    return value


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Compute, needed: list[bool], *inputs: Tensor) -> Tensor:
        def run() -> tuple[Tensor, Gradients]:
            with torch.autocast(inputs[0].device.type, enabled=False):
                return compute(needed)

        value, ctx.gradients = run()
        ctx.run = run if any(needed) else None
        ctx.dtypes = [x.dtype for x in inputs]
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # `once_differentiable` would let this pass, and treat the gradients as constants
        if torch.is_grad_enabled():
            raise InputError("this loss can be differentiated once only: call backward without create_graph=True")
        # handed out, not shared: whoever gets them may keep and change them without a copy
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            _, gradients = ctx.run()
        pairs = zip(gradients, ctx.dtypes, strict=True)
        return (None, None, *(None if g is None else g.mul_(grad).to(dtype) for g, dtype in pairs))
