"""The projection head of DINO (arXiv:2104.14294, appendix C), iBOT and DINOv2."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import InputError
from core.nn import trunc_normal

__all__ = ["DINOHead", "HeadConfig", "Prototypes"]


@dataclass(frozen=True)
class HeadConfig:
    """The shape of a head.

    Attributes:
        prototypes: width of the logits.
        hidden: width of the layers inside.
        bottleneck: width of the normalised vector that is compared with the prototypes.
        layers: linear layers before the prototypes.
        trained_scale: whether the prototypes' lengths are trained (DINOv2) or stay 1 (DINO's ``norm_last_layer``).
    """

    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    layers: int = 3
    trained_scale: bool = False

    def __post_init__(self) -> None:
        if min(self.prototypes, self.hidden, self.bottleneck, self.layers) < 1:
            raise InputError(f"a head needs at least 1 prototype, layer and width, not {self}")


class Prototypes(nn.Module):
    """Directions that a vector is compared with: a linear layer under weight normalisation (arXiv:1602.07868).

    Args:
        dim: D, width of the vectors.
        count: K, number of prototypes.
        trained_scale: whether their lengths are trained.
    """

    def __init__(self, dim: int, count: int, trained_scale: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, dim), std=0.02))
        self.scale = nn.Parameter(torch.ones(count, 1), requires_grad=trained_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, D) to logits (N, K)."""
        return F.linear(x, torch._weight_norm(self.weight, self.scale, 0))


class DINOHead(nn.Module):
    """An MLP, a unit vector, prototypes.

    Args:
        dim: width of the features.
        config: the shape.
    """

    def __init__(self, dim: int, config: HeadConfig = HeadConfig()) -> None:
        super().__init__()
        widths = [dim, *[config.hidden] * (config.layers - 1), config.bottleneck]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        trunc_normal(self.mlp)
        self.last = Prototypes(config.bottleneck, config.prototypes, config.trained_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, dim) to logits (N, prototypes)."""
        x = self.mlp(x)
        # the unit vector in full precision: in float16 small sums of squares would vanish
        unit = F.normalize(x.float() if x.dtype.itemsize < 4 else x, dim=-1)
        return self.last(unit.to(x.dtype))
