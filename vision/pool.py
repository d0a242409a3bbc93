"""How the tokens of an image become one vector."""

import torch
from torch import Tensor, nn

from core.nn import Block, Ctx, LayerNorm, Memory, Mlp, Replace, Residual, cross_attention

__all__ = ["AttentionPool", "ClassPool", "MeanPool", "TwoHeads", "TwoTokens"]


class ClassPool(nn.Module):
    """The class token, which comes first."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, L, D) to (B, D)."""
        return x[:, 0]


class TwoTokens(nn.Module):
    """DeiT's class and distillation token, which come first."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, L, D) to (B, 2, D)."""
        return x[:, :2]


class TwoHeads(nn.Module):
    """DeiT's head (arXiv:2012.12877): one classifier for the class token, one for the distillation token.

    Args:
        dim: width of the tokens.
        classes: number of classes.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.cls = nn.Linear(dim, classes)
        self.dist = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of both logits, (B, classes), for the two tokens (B, 2, D)."""
        a, b = self.both(x)
        return (a + b) / 2

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits for the labels and those for the teacher, each (B, classes)."""
        return self.cls(x[:, 0]), self.dist(x[:, 1])


class MeanPool(nn.Module):
    """The mean of the patches, normalised if a norm is given.

    Args:
        prefix: number of tokens before those of the patches, which are left out.
        norm: of the mean.
    """

    def __init__(self, prefix: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.prefix = prefix
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, L, D) to (B, D)."""
        mean = x[:, self.prefix :].mean(1)
        return mean if self.norm is None else self.norm(mean)


class AttentionPool(nn.Module):
    """Multi-head attention pooling (MAP) of SigLIP and big_vision: a learned query attends to all tokens."""

    def __init__(
        self, dim: int, heads: int, hidden: int | None = None, *, act: nn.Module | None = None, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=dim**-0.5))
        self.block = Block(
            cross=Replace(nn.Identity(), cross_attention(dim, heads)),
            mlp=Residual(LayerNorm(dim, eps=eps), Mlp(dim, hidden, act=act)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, L, D) to (B, D)."""
        query = self.query.expand(x.shape[0], -1, -1)
        return self.block(query, Ctx(memory=Memory(x))).x[:, 0]
