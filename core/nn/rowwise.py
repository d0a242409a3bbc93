"""Linear layers of 8-bit integers that look for the scale of each row (token) in each call.

Codes are unsigned, 128 means 0: that is the one kind of input for which the integer instructions of every x86 processor
are used (VNNI, AMX).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .frozen import Frozen
from .int8 import MIDDLE

__all__ = ["Int8Embedding", "Int8Linear", "integers", "row_codes"]

SMALL = 8192  # numbers: below, the count of the operations costs more than the numbers do
TINY = 1e-12


def integers() -> bool:
    """Whether this processor multiplies 8-bit integers faster than float32, and PyTorch knows how."""
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported())


def row_codes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, K) float32 as (codes (N, K) uint8, largest magnitudes (N, 1)): x = (code - 128) * largest / 127."""
    if rows.numel() <= SMALL:
        most = torch.linalg.vector_norm(rows, torch.inf, 1, True).clamp_min_(TINY)
        return (rows * (127 / most)).round_().add_(MIDDLE).to(torch.uint8), most
    most = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True)).clamp_min_(TINY)
    return unsigned((rows * (127 / most)).round_()), most


def unsigned(x: Tensor) -> Tensor:
    """Whole numbers from -128 to 127 as codes; PyTorch's conversion to int8 is ten times as fast as that to uint8."""
    return x.to(torch.int8).view(torch.uint8).bitwise_xor_(MIDDLE)


class Int8Linear(Frozen):
    """A linear layer of 8-bit integers: weights with a scale per output channel, inputs with a scale per token.

    A scale per token, found in each call, keeps the result of a row independent of the rows beside it.

    Args:
        linear: the layer that it approximates; its weight is on a processor.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        codes = (weight / scales[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(codes, None)
        self.scales = scales / 127  # of the weight, and of the inputs but for their largest magnitude
        self.zeros = torch.zeros(self.out_features, dtype=torch.int32)
        if self.bias is not None:
            self.bias = self.bias.float()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features) of the same type, float32 or bfloat16."""
        codes, most = row_codes(x.reshape(-1, self.in_features).float())
        y = self.of_codes(codes, most)
        return y.to(x.dtype).unflatten(0, x.shape[:-1])

    def of_codes(self, codes: Tensor, most: Tensor) -> Tensor:
        """Map what :func:`row_codes` returns to (N, out_features) float32."""
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, MIDDLE, self.weight, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return y.mul_(most) if self.bias is None else torch.addcmul(self.bias, y, most, out=y)


class Int8Embedding(nn.Module):
    """A :class:`core.nn.tied.TiedEmbedding` whose table is bfloat16, and 8-bit integers as the output layer.

    Args:
        embedding: the one that it approximates.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.table = embedding.weight.detach().to(torch.bfloat16)
        out = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False, device="meta")
        out.weight = embedding.weight
        self.out = Int8Linear(out)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (...) to (..., dim), float32."""
        return F.embedding(tokens, self.table).float()

    def logits(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., vocab)."""
        y: Tensor = self.out(x)
        return y
