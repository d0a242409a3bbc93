"""How weights start."""

from torch import nn

__all__ = ["trunc_normal"]


def trunc_normal(model: nn.Module, std: float = 0.02) -> None:
    """Start every linear layer from a truncated normal and a zero bias, as ViTs are (timm, MAE, DINO)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
