"""Feed-forward branches. They take ``(x, ctx)`` as every branch does, and look at x only."""

import torch
from torch import Tensor, nn

from .context import Ctx

__all__ = ["GEGLU", "GatedMlp", "Mlp", "QuickGELU", "SwiGLU"]


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the GELU of OpenAI's CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to itself."""
        return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    """fc2(act(fc1(x))).

    Args:
        dim: width of the activations.
        hidden: width inside, default 4 * dim.
        act: activation, default exact GELU.
        bias: whether the layers have a bias.
    """

    def __init__(self, dim: int, hidden: int | None = None, *, act: nn.Module | None = None, bias: bool = True) -> None:
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.act = nn.GELU() if act is None else act
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor, ctx: Ctx | None = None) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        return self.fc2(self.inner(x, ctx))

    def inner(self, x: Tensor, ctx: Ctx | None = None) -> Tensor:
        """All but the last layer: (..., dim) -> (..., hidden)."""
        y: Tensor = self.act(self.fc1(x))
        return y


class GatedMlp(nn.Module):
    """down(act(gate(x)) * up(x)) (arXiv:2002.05202).

    Args:
        dim: width of the activations.
        hidden: width inside.
        act: activation of the gate.
        bias: whether the layers have a bias.
        norm: of the product, before the way down.
    """

    def __init__(
        self, dim: int, hidden: int, *, act: nn.Module, bias: bool = False, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=bias)
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.act = act
        self.norm = norm
        self.down = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor, ctx: Ctx | None = None) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        return self.down(self.inner(x, ctx))

    def inner(self, x: Tensor, ctx: Ctx | None = None) -> Tensor:
        """All but the last layer: (..., dim) -> (..., hidden)."""
        y = self.act(self.gate(x)) * self.up(x)
        return y if self.norm is None else self.norm(y)


class SwiGLU(GatedMlp):
    """:class:`GatedMlp` gated by SiLU (Llama, DINOv2 giant)."""

    def __init__(self, dim: int, hidden: int, *, bias: bool = False, norm: nn.Module | None = None) -> None:
        super().__init__(dim, hidden, act=nn.SiLU(), bias=bias, norm=norm)


class GEGLU(GatedMlp):
    """:class:`GatedMlp` gated by exact GELU (Stable Diffusion); T5 1.1 and Gemma gate by ``nn.GELU("tanh")``."""

    def __init__(self, dim: int, hidden: int, *, bias: bool = False, norm: nn.Module | None = None) -> None:
        super().__init__(dim, hidden, act=nn.GELU(), bias=bias, norm=norm)
