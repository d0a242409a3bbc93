"""Branches for inference: LayerScale inside the weights, and the shortcut added by the last layer itself."""

from typing import Any

import torch
from torch import Tensor, nn

from .attention import Attention, Heads
from .block import Residual, Stochastic
from .context import Ctx
from .feedforward import GatedMlp, Mlp
from .norm import LayerScale

__all__ = ["InRows", "Joined", "Overwriting", "folded", "joined", "last_layer", "with_gelu"]


class Joined(nn.Module):
    """x + fn(norm(x), ctx), where the last layer of ``fn`` adds x while it writes.

    Args:
        branch: without a ``post``; the last layer of its ``fn`` has a method ``added(x, other)``.
    """

    def __init__(self, branch: Residual) -> None:
        super().__init__()
        self.norm = branch.norm
        self.fn: Any = branch.fn
        self.last = last_layer(branch.fn) or ""

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        y: Tensor = getattr(self.fn, self.last).added(self.fn.inner(self.norm(x), ctx), x)
        return y


class Overwriting(nn.Module):
    """GELU in the place of its input: no second buffer of the size of the hidden activations passes the caches.

    Args:
        approximate: ``"none"`` or ``"tanh"``.
    """

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Overwrite and return x."""
        y: Tensor = torch.ops.aten.gelu_(x, approximate=self.approximate)
        return y


class InRows(nn.Module):
    """A branch that treats each token alone, a few hundred at once: what it has in between stays in the caches.

    Args:
        branch: maps (N, D) and a context to (N, D).
        rows: tokens at once.
    """

    def __init__(self, branch: nn.Module, rows: int = 256) -> None:
        super().__init__()
        self.branch = branch
        self.rows = rows

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map (..., D) to (..., D)."""
        flat = x.reshape(-1, x.shape[-1])
        if len(flat) <= self.rows:
            y: Tensor = self.branch(x, ctx)
            return y
        out = torch.empty_like(flat)
        for first in range(0, len(flat), self.rows):
            out[first : first + self.rows] = self.branch(flat[first : first + self.rows], ctx)
        return out.view(x.shape)


def last_layer(fn: nn.Module) -> str | None:
    """The name of the layer that writes the result of a branch's ``fn``, if it is of a kind with a method ``inner``."""
    if type(fn) is Attention and all(type(part) is Heads for part in (fn.q, fn.k, fn.v)):
        return "out"
    if type(fn) is Mlp:
        return "fc2"
    return "down" if isinstance(fn, GatedMlp) else None


@torch.no_grad()
def folded(model: nn.Module) -> nn.Module:
    """Multiply LayerScale into the layer before it, where that is a plain linear one. Changes the model."""
    for branch in model.modules():
        if isinstance(branch, Residual) and type(branch) in (Residual, Stochastic) and type(branch.post) is LayerScale:
            last = getattr(branch.fn, last_layer(branch.fn) or "", None)
            if type(last) is nn.Linear:
                gamma = branch.post.gamma
                last.weight.mul_(gamma[:, None])
                if last.bias is not None:
                    last.bias.mul_(gamma)
                branch.post = None
    return model


def joined(model: nn.Module) -> nn.Module:
    """Put :class:`Joined` in the place of branches whose last layer can add, and GELU into the layer before it."""
    for parent in list(model.modules()):
        for name, branch in list(parent.named_children()):
            if isinstance(branch, Residual) and type(branch) in (Residual, Stochastic) and branch.post is None:
                last = getattr(branch.fn, last_layer(branch.fn) or "", None)
                if not hasattr(last, "added"):
                    continue
                setattr(parent, name, Joined(branch))
                if type(branch.fn) is Mlp and type(branch.fn.act) is nn.GELU:
                    with_gelu(branch.fn, branch.fn.act.approximate)
    return model


def with_gelu(mlp: Mlp, approximate: str) -> None:
    """GELU as a part of the layer before it, if that can."""
    before: Any = mlp.fc1
    if hasattr(before, "gelu"):
        before.gelu = approximate
        mlp.act = nn.Identity()
    else:
        mlp.act = Overwriting(approximate)
