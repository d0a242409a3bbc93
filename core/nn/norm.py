"""Norms, and what scales or drops the result of a branch. LayerNorm and RMSNorm are PyTorch's own."""

import torch
from torch import Tensor, nn
from torch.nn import LayerNorm, RMSNorm

from .context import Tokens

__all__ = ["AdaptiveNorm", "DropPath", "LayerNorm", "LayerScale", "Modulation", "RMSNorm"]


class LayerScale(nn.Module):
    """A learned factor per channel (arXiv:2103.17239)."""

    def __init__(self, dim: int, init: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., dim)."""
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a branch for whole samples with probability ``rate`` (arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, tokens: Tokens = Tokens()) -> Tensor:
        """Drop rows of (B, ...) or segments of a packed row (1, L, D); scale up those that stay: the mean stays."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        packed = tokens.segment is not None and tokens.lengths is not None
        count = len(tokens.lengths or ()) if packed else x.shape[0]
        kept = x.new_empty(count).bernoulli_(keep)
        kept = kept[tokens.segment][..., None] if packed else kept.view(-1, *[1] * (x.ndim - 1))
        return x * (kept / keep if keep > 0 else kept)


class Modulation(nn.Module):
    """adaLN-zero (arXiv:2212.09748): a norm whose shift and scale come from the conditioning, and a gate.

    It starts as a plain norm with a gate of zero, so that a new block is the identity.

    Args:
        dim: width of the activations.
        cond_dim: width of the conditioning, default ``dim``.
        norm: without parameters of its own; default LayerNorm with eps 1e-6.
    """

    def __init__(self, dim: int, cond_dim: int | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = LayerNorm(dim, eps=1e-6, elementwise_affine=False) if norm is None else norm
        self.act = nn.SiLU()
        self.proj = nn.Linear(dim if cond_dim is None else cond_dim, 3 * dim)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Return the modulated x (B, L, dim) and the gate (B, 1, dim) for cond (B, cond_dim)."""
        shift, scale, gate = self.proj(self.act(cond)).unsqueeze(1).chunk(3, -1)
        return self.norm(x) * (1 + scale) + shift, gate


class AdaptiveNorm(nn.Module):
    """adaLN (arXiv:2212.09748) without a gate: a norm whose shift and scale come from the conditioning.

    Args:
        dim, cond_dim, norm: see :class:`Modulation`.
    """

    def __init__(self, dim: int, cond_dim: int | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = LayerNorm(dim, eps=1e-6, elementwise_affine=False) if norm is None else norm
        self.act = nn.SiLU()
        self.proj = nn.Linear(dim if cond_dim is None else cond_dim, 2 * dim)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Return the modulated x (B, L, dim) for cond (B, cond_dim)."""
        shift, scale = self.proj(self.act(cond)).unsqueeze(1).chunk(2, -1)
        return self.norm(x) * (1 + scale) + shift
