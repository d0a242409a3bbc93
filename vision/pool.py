"""How the tokens of an image become one vector."""

import torch
from torch import Tensor, nn

from core.nn import Block, Ctx, LayerNorm, Memory, Mlp, Replace, Residual, cross_attention

__all__ = ["AttentionPool", "ClassPool", "MeanPool"]


class ClassPool(nn.Module):
    """The class token, which comes first."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, L, D) to (B, D)."""
        return x[:, 0]


class MeanPool(nn.Module):
    """The mean of the patches, normalised.

    Args:
        prefix: number of tokens before those of the patches, which are left out.
        norm: of the mean.
    """

    def __init__(self, prefix: int, norm: nn.Module) -> None:
        super().__init__()
        self.prefix = prefix
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, L, D) to (B, D)."""
        return self.norm(x[:, self.prefix :].mean(1))


class AttentionPool(nn.Module):
    """Multi-head attention pooling (MAP) of SigLIP and big_vision: a learned query attends to all tokens."""

    def __init__(self, dim: int, heads: int, hidden: int | None = None, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=dim**-0.5))
        self.block = Block(
            cross=Replace(nn.Identity(), cross_attention(dim, heads)),
            mlp=Residual(LayerNorm(dim, eps=eps), Mlp(dim, hidden)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, L, D) to (B, D)."""
        query = self.query.expand(x.shape[0], -1, -1)
        return self.block(query, Ctx(memory=Memory(x))).x[:, 0]
