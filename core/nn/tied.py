"""An embedding of tokens that is the output layer too."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TiedEmbedding"]


class TiedEmbedding(nn.Embedding):
    """Tokens (...) to vectors (..., dim), and vectors to a score for each token (Press and Wolf, arXiv:1608.05859)."""

    def logits(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., vocab)."""
        return F.linear(x, self.weight)
