"""From the width of an eye to that of a language model."""

from torch import Tensor, nn

__all__ = ["MlpProjector", "ShuffleProjector", "pixel_shuffle"]


class MlpProjector(nn.Module):
    """Two layers with a GELU between them (LLaVA-1.5, arXiv:2310.03744): one token for each feature.

    Args:
        eye: width of the features.
        dim: of the language model.
        bias: whether the layers have one.
        act: between them, default exact GELU.
    """

    def __init__(self, eye: int, dim: int, *, bias: bool = True, act: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(eye, dim, bias=bias)
        self.act = nn.GELU() if act is None else act
        self.fc2 = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, eye) to (B, N, dim)."""
        return self.fc2(self.act(self.fc1(x)))

    def count(self, features: int) -> int:
        """How many tokens so many features become."""
        return features


class ShuffleProjector(nn.Module):
    """Neighbouring features side by side, then a matrix (Idefics3, arXiv:2408.12637; SmolVLM, arXiv:2504.05299).

    Args:
        eye: width of the features, those of a square picture in reading order.
        dim: of the language model.
        scale: side of the squares of features that become one token.
    """

    def __init__(self, eye: int, dim: int, *, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.proj = nn.Linear(eye * scale**2, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, eye) to (B, N / scale^2, dim).

        Raises:
            ValueError: if the features make no square that can be divided so.
        """
        return self.proj(pixel_shuffle(x, self.scale))

    def count(self, features: int) -> int:
        """How many tokens so many features become."""
        return features // self.scale**2


def pixel_shuffle(x: Tensor, scale: int) -> Tensor:
    """Put squares of features side by side: (B, h*h, D) -> (B, h*h / scale^2, D * scale^2), rows before columns.

    Raises:
        ValueError: if the features make no square, or ``scale`` does not divide its side.
    """
    side = round(x.shape[1] ** 0.5)
    if side * side != x.shape[1] or side % scale:
        raise ValueError(f"{x.shape[1]} features make no square whose side {scale} divides: give a square picture")
    x = x.unflatten(1, (side // scale, scale, side // scale, scale))  # (B, h, s, w, s, D)
    return x.transpose(2, 3).flatten(3).flatten(1, 2)  # -> (B, h, w, s*s*D) -> (B, h*w, s*s*D)
