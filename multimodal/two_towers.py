"""Two towers, one for images and one for texts, whose outputs are compared: CLIP, SigLIP, SigLIP 2 and LiT."""

from dataclasses import dataclass, field
from math import log
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn import direct, recomputed
from multimodal.text import TextConfig, TextTower
from vision.swin import Swin, SwinConfig
from vision.vit import ViT, ViTConfig

__all__ = ["Pair", "Towers", "TwoTowers", "TwoTowersConfig"]


@dataclass(frozen=True)
class TwoTowersConfig:
    """The shape of a two-tower model; as it stands, open_clip's ViT-B-32.

    Attributes:
        image: the image tower, which has no head.
        text: the text tower; its ``embed`` is the width of the common space.
        image_proj: whether a linear layer leads from the image tower into the common space.
        logit_scale: factor of the cosines at the start; its logarithm is what is learned.
        logit_bias: what is added to the logits at the start; None for a model that is trained by softmax.
    """

    image: ViTConfig | SwinConfig = field(
        default_factory=lambda: ViTConfig(patch=32, patch_bias=False, classes=0, pre_norm=True, eps=1e-5)
    )
    text: TextConfig = field(default_factory=TextConfig)
    image_proj: bool = True
    logit_scale: float = 1 / 0.07
    logit_bias: float | None = None

    def __post_init__(self) -> None:
        if self.image.classes:
            raise ValueError("the image tower has a head: set classes to 0")
        if not self.image_proj and self.width != self.embed:
            raise ValueError(f"images are {self.width} wide and texts {self.embed}: set image_proj to true")

    @property
    def width(self) -> int:
        """Width of what the image tower returns."""
        return self.image.dim if isinstance(self.image, ViTConfig) else self.image.width

    @property
    def vocab(self) -> int:
        """Size of the vocabulary."""
        return self.text.vocab

    @property
    def context(self) -> int:
        """Tokens of a text."""
        return self.text.context

    @property
    def embed(self) -> int:
        """Width of the common space."""
        return self.text.dim if self.text.embed is None else self.text.embed


class Pair(NamedTuple):
    """What one pass over images and texts gives.

    Attributes:
        image, text: (B, embed), of unit length.
        scale: 0-d, of their products.
        bias: 0-d, added to the products; None where there is none.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor | None


class Towers(nn.Module):
    """What embeds images and texts in a common space, and compares them: CLIP, SigLIP, CoCa.

    Attributes:
        image: maps images (B, C, H, W) to (B, width).
        image_proj: maps that to the common space.
        text: maps texts (B, L) int64 to the common space.
        logit_scale: logarithm of the factor of the cosines.
        logit_bias: what is added to them; None for a model that is trained by softmax.
    """

    image: Any
    image_proj: nn.Module
    text: Any
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        """Return the embeddings (B, embed) of images (B, C, H, W), of unit length or as they come."""
        x = self.image_proj(self.image(images))
        return F.normalize(x, dim=-1) if normalize else x

    def encode_text(self, ids: Tensor, normalize: bool = True) -> Tensor:
        """Return the embeddings (B, embed) of texts (B, L) int64, of unit length or as they come."""
        x = self.text(ids)
        return F.normalize(x, dim=-1) if normalize else x

    def logits(self, image: Tensor, text: Tensor) -> Tensor:
        """Return how well embeddings (B_image, embed) and (B_text, embed) fit: (B_image, B_text)."""
        found = self.logit_scale.exp() * image @ text.T
        return found if self.logit_bias is None else found + self.logit_bias

    @property
    def sigmoid(self) -> bool:
        """Whether the sigmoid of a logit is a probability (SigLIP); else the softmax over the texts is (CLIP)."""
        return self.logit_bias is not None

    @torch.no_grad()
    def clamp(self, most: float = 100.0) -> None:
        """Keep the scale between 1 and ``most``, as CLIP does after each step."""
        self.logit_scale.clamp_(0, log(most))


class TwoTowers(Towers):
    """An image tower and a text tower with a common space.

    Args:
        config: its shape.
        recompute: activation checkpointing in both towers: less memory in training for a third more time.
    """

    def __init__(self, config: TwoTowersConfig = TwoTowersConfig(), *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        shape = config.image
        self.image = _tower(shape, recompute)
        self.image_proj = nn.Linear(config.width, config.embed, bias=False) if config.image_proj else nn.Identity()
        if isinstance(self.image_proj, nn.Linear):
            nn.init.normal_(self.image_proj.weight, std=config.width**-0.5)
        self.text = TextTower(config.text, recompute=recompute)
        self.logit_scale = nn.Parameter(torch.tensor(log(config.logit_scale)))
        self.logit_bias = None if config.logit_bias is None else nn.Parameter(torch.tensor(float(config.logit_bias)))

    def forward(self, images: Tensor, ids: Tensor) -> Pair:
        """Embed images (B, C, H, W) and texts (B, L) int64."""
        return Pair(self.encode_image(images), self.encode_text(ids), self.logit_scale.exp(), self.logit_bias)


def _tower(config: ViTConfig | SwinConfig, recompute: bool) -> ViT | Swin:
    if isinstance(config, ViTConfig):
        return ViT(config, recompute=recompute)
    return Swin(config, run=recomputed if recompute else direct)
