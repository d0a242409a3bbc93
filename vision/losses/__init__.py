"""Objectives of self-supervised training: each is a module over tensors, and knows no trainer."""

from .centre import Centre, Centring, SinkhornKnopp
from .cross_entropy import soft_cross_entropy
from .dino import DINOLoss
from .gram import GramLoss
from .ibot import IBOTLoss
from .koleo import KoLeoLoss
from .mae import mae_loss

__all__ = [
    "Centre",
    "Centring",
    "DINOLoss",
    "GramLoss",
    "IBOTLoss",
    "KoLeoLoss",
    "SinkhornKnopp",
    "mae_loss",
    "soft_cross_entropy",
]
