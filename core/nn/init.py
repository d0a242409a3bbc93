"""How weights start."""

from torch import nn

from .attention import Attention

__all__ = ["lecun_normal", "trunc_normal", "xavier_uniform"]


def trunc_normal(model: nn.Module, std: float = 0.02) -> None:
    """Start every linear layer from a truncated normal and a zero bias, as ViTs are (timm, DINO)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def lecun_normal(model: nn.Module) -> None:
    """Start every linear layer from a truncated normal of variance 1 / inputs and a zero bias, as Perceivers are.

    In narrow models a fixed 0.02 would make attention over many tokens the same for all of them.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def xavier_uniform(model: nn.Module) -> None:
    """Start every linear layer from Xavier's uniform distribution and a zero bias (MAE, DiT).

    There, query, key and value are one matrix with three times the outputs: ours are drawn with that matrix' bounds.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, Attention):
            for heads in (module.q, module.k, module.v):
                nn.init.xavier_uniform_(heads.proj.weight, gain=2**-0.5)
