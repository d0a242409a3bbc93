"""Linear layers whose weight is frozen in four bits a number, as QLoRA has it (arXiv:2305.14314, section 3).

A weight is cut into blocks of 64 numbers. Each number becomes the nearest of 16 levels, times the block's largest
magnitude. The levels are the quantiles of a normal distribution, since weights are about normal. The scales stay as
they are, half a bit a number in float32: the paper's second quantisation of them would save three eighths of a bit.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NF4", "NF4Linear", "from_nf4", "to_nf4"]

BLOCK = 64


def _levels() -> Tensor:
    """Equation 4 of the paper: 8 quantiles on the negative and 9 on the positive side, 0 being one of both."""
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    most = 0.5 * ((1 - 1 / 32) + (1 - 1 / 30))
    positive = normal.icdf(torch.linspace(most, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -normal.icdf(torch.linspace(most, 0.5, 8, dtype=torch.float64)[:-1])
    levels = torch.cat([negative, torch.zeros(1, dtype=torch.float64), positive]).sort().values
    return (levels / levels.abs().max()).float()


NF4 = _levels()
"""The 16 levels, from -1 to 1."""


def to_nf4(weight: Tensor, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Return two numbers in each byte, (n / 2,) uint8, and the scales of the blocks, (n / block,) float32.

    Args:
        weight: of any shape, n numbers in all.
        block: numbers that share a scale; even.

    Raises:
        ValueError: if n is no multiple of ``block``.
    """
    if weight.numel() % block or block % 2:
        raise ValueError(f"{weight.numel()} numbers can't be cut into blocks of {block}: choose an even divisor")
    blocks = weight.detach().float().reshape(-1, block)
    scales = blocks.abs().amax(1)
    scaled = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    levels = NF4.to(weight.device)
    codes = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2).to(torch.uint8).flatten()
    return codes[::2] | (codes[1::2] << 4), scales


def from_nf4(codes: Tensor, scales: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return the numbers that :func:`to_nf4` kept."""
    levels = NF4.to(codes.device)
    pairs = torch.stack([codes & 15, codes >> 4], -1).int()
    return (levels[pairs].view(len(scales), -1) * scales[:, None]).view(shape).to(dtype)


class NF4Linear(nn.Module):
    """A linear layer with a frozen weight of 4.5 bits a number. Gradients reach its input, and its weight never.

    Args:
        linear: the layer that it stands for.
        block: numbers that share a scale; the largest even divisor of the weight's size below is taken if need be.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, block: int = BLOCK) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        size = linear.weight.numel()
        block = next(n for n in range(min(block, size) // 2 * 2, 0, -2) if size % n == 0)
        codes, scales = to_nf4(linear.weight, block)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weight (out_features, in_features) as it counts."""
        return from_nf4(self.codes, self.scales, (self.out_features, self.in_features), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        y: Tensor = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def plain(self) -> nn.Linear:
        """An ordinary layer with the same weight."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device=self.codes.device)
        with torch.no_grad():
            linear.weight.copy_(self.weight_in(linear.weight.dtype))
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear


class _Product(torch.autograd.Function):
    """x W^T that keeps the four bits, not the weight, for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, layer.weight_in(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        with torch.autocast(grad.device.type, enabled=False):
            return grad @ ctx.layer.weight_in(grad.dtype), None
