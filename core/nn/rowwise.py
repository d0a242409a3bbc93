"""Linear layers of 8-bit integers that look for the scale of each row (token) in each call.

They are FBGEMM's, which for the few rows of a decoder's step need half the time of oneDNN's. FBGEMM knows one scale for
all rows; so that each has its own, rows are brought to the same largest magnitude before, and back after.
"""

import warnings

import torch
from torch import Tensor, nn

from .frozen import Frozen

__all__ = ["Int8Linear", "has_integers", "prefers_integers"]

SMALL = 8192  # numbers: below, the count of the operations costs more than the numbers do
TINY = 1e-12
STEPS, ZERO = 127, 128  # codes are unsigned, from 1 to 255


def has_integers() -> bool:
    """Whether PyTorch has 8-bit linear layers for this processor."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def prefers_integers() -> bool:
    """Whether this processor multiplies 8-bit integers faster than float32, without sums that overflow."""
    return has_integers() and bool(torch.cpu._is_vnni_supported())


class Int8Linear(Frozen):
    """A linear layer of 8-bit integers: weights with a scale per output channel, inputs with a scale per token.

    A scale per token, found in each call, keeps the result of a row independent of the rows beside it, to the bit.

    Args:
        linear: the layer that it approximates; its weight is on a processor.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / STEPS
        codes = (weight / scales[:, None]).round().to(torch.int8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # making such tensors is deprecated, the layer that takes them is not
            zeros = torch.zeros(self.out_features, dtype=torch.long)
            quantized = torch._make_per_channel_quantized_tensor(codes, scales, zeros, 0)
        self.weight = torch.ops.quantized.linear_prepack(quantized, None)
        if self.bias is not None:
            self.bias = self.bias.float()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features) of the same type, float32 or bfloat16."""
        rows = x.reshape(-1, self.in_features).float()
        most = _largest(rows)
        y: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows / most, 1 / STEPS, ZERO, self.weight
        )
        y = y.mul_(most) if self.bias is None else torch.addcmul(self.bias, y, most, out=y)
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)


def _largest(rows: Tensor) -> Tensor:
    """The largest magnitude in each of (N, K), and never 0: (N, 1)."""
    if rows.numel() <= SMALL:
        return torch.linalg.vector_norm(rows, torch.inf, 1, True).clamp_min_(TINY)
    return torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True)).clamp_min_(TINY)
