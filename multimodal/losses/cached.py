"""Embeddings of batches larger than memory: GradCache (Gao et al. 2021, arXiv:2101.06983)."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

from core.errors import InputError

__all__ = ["cached"]

Batch = TypeVar("Batch")


def cached(
    embed: Callable[[Batch], tuple[Tensor, ...]], batches: Sequence[Batch], parameters: Iterable[Tensor]
) -> tuple[Tensor, ...]:
    """Embed micro-batches one after the other, keeping the activations of none.

    The result is differentiable like ``torch.cat`` of the embeddings: once a loss over the whole batch knows its
    gradients for them, the backward pass embeds each micro-batch again, with the random numbers and the autocast of the
    first time, and sums up the gradients of the parameters. Those are handed on as one gradient each, so it works
    wherever one backward pass does: with manual and automatic optimisation, gradient scaling, and DDP's averaging.
    In a LightningModule::

        def training_step(self, batch, index):
            images, texts = batch
            parts = list(zip(images.split(64), texts.split(64)))
            image, text = cached(lambda part: self.model(*part)[:2], parts, self.model.parameters())
            return info_nce(image, text, self.model.logit_scale.exp())

    Modules that change when they are called (batch norm's running means) change twice. FSDP, whose parameters are
    whole only while a module runs, isn't supported.

    Args:
        embed: maps a micro-batch to tensors (b, ...).
        batches: the micro-batches; they get no gradient.
        parameters: all that `embed` uses and that needs gradients; those that need none are passed over.

    Returns:
        For each tensor of `embed`, the rows of all micro-batches in order: (sum of b, ...).
    """
    trained = list(dict.fromkeys(p for p in parameters if p.requires_grad))
    return _Cached.apply(embed, batches, *trained)


class _Cached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embed: Callable[[Any], tuple[Tensor, ...]], batches: Sequence[Any], *trained: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.embed, ctx.batches = embed, batches
        ctx.states, parts = [], []
        for batch in batches:
            ctx.states.append((torch.get_rng_state(), *get_device_states(batch)))
            parts.append(embed(batch))
        ctx.save_for_backward(*trained)
        ctx.sizes = [len(part[0]) for part in parts]
        ctx.autocasts = [
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in {"cpu", parts[0][0].device.type}
        ]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "cached embeddings can be differentiated once only: call backward without create_graph=True"
            )
        trained = ctx.saved_tensors
        totals: list[Tensor | None] = [None] * len(trained)
        columns = [None if g is None else g.split(ctx.sizes) for g in gradients]
        for at, (batch, state) in enumerate(zip(ctx.batches, ctx.states, strict=True)):
            outputs = _again(ctx, batch, state)
            shares = [None if column is None else column[at] for column in columns]
            pairs = [(x, g) for x, g in zip(outputs, shares, strict=True) if x.requires_grad and g is not None]
            if not pairs:
                continue
            found = torch.autograd.grad([x for x, _ in pairs], trained, [g for _, g in pairs], allow_unused=True)
            for place, gradient in enumerate(found):
                if gradient is not None:
                    total = totals[place]
                    totals[place] = gradient if total is None else total + gradient
        return (None, None, *totals)


def _again(ctx: Any, batch: Any, state: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Embed a micro-batch with a graph, as it was embedded before."""
    cpu, devices, states = state
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        torch.set_rng_state(cpu)
        set_device_states(devices, states)
        for kind, enabled, dtype in ctx.autocasts:
            stack.enter_context(torch.autocast(kind, dtype, enabled))
        stack.enter_context(torch.enable_grad())
        embedded: tuple[Tensor, ...] = ctx.embed(batch)
        return embedded
