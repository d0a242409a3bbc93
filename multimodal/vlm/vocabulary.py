"""Tokens added to a vocabulary, with weights of their own: Idefics-1 trains these and leaves the others as they are."""

import torch
from torch import Tensor, nn

__all__ = ["ExtendedEmbedding", "ExtendedHead"]


class ExtendedEmbedding(nn.Module):
    """An embedding of ``vocab`` tokens, and one of ``more`` that follow them.

    Args:
        vocab, more: how many tokens.
        dim: of their vectors.
    """

    def __init__(self, vocab: int, more: int, dim: int) -> None:
        super().__init__()
        self.vocab = vocab
        self.base = nn.Embedding(vocab, dim)
        self.more = nn.Embedding(more, dim)

    @property
    def weight(self) -> Tensor:
        """All vectors (vocab + more, dim): a copy."""
        return torch.cat([self.base.weight, self.more.weight])

    def forward(self, ids: Tensor) -> Tensor:
        """Map tokens (...) to vectors (..., dim)."""
        added = ids >= self.vocab
        x = self.base(ids.masked_fill(added, 0))
        y = self.more((ids - self.vocab).clamp(min=0))
        return torch.where(added[..., None], y, x)


class ExtendedHead(nn.Module):
    """An output layer of ``vocab`` tokens, and one of ``more`` that follow them; arguments as in the embedding."""

    def __init__(self, vocab: int, more: int, dim: int) -> None:
        super().__init__()
        self.base = nn.Linear(dim, vocab, bias=False)
        self.more = nn.Linear(dim, more, bias=False)

    @property
    def weight(self) -> Tensor:
        """All rows (vocab + more, dim): a copy."""
        return torch.cat([self.base.weight, self.more.weight])

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to scores (..., vocab + more)."""
        return torch.cat([self.base(x), self.more(x)], -1)
