"""A denoiser with the text tower that tells it what to draw, as one model: what a bundle holds."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from core.weights import Makers, from_plain
from diffusion.mmdit import MMDiT, MMDiTConfig
from multimodal.prompts import PromptEncoder
from multimodal.text import TextConfig, TextTower

__all__ = ["MAKERS", "TextToImage", "TextToImageConfig"]


@dataclass(frozen=True)
class TextToImageConfig:
    """The shapes of both parts.

    Attributes:
        denoiser: its ``text_dim`` is the width of the tower.
        text: the text tower.
    """

    denoiser: MMDiTConfig = field(default_factory=MMDiTConfig)
    text: TextConfig = field(default_factory=TextConfig)


class TextToImage(nn.Module):
    """Both parts.

    Args:
        denoiser: the denoiser.
        text: what tells it texts.
    """

    def __init__(self, denoiser: MMDiT, text: PromptEncoder) -> None:
        super().__init__()
        self.denoiser, self.text = denoiser, text

    @property
    def config(self) -> TextToImageConfig:
        """The shapes of both parts."""
        return TextToImageConfig(self.denoiser.config, self.text.tower.config)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """Return what the denoiser predicts (B, outputs, H, W) of noisy x (B, C, H, W) at t (B,) for texts (B, L)."""
        predicted: Tensor = self.denoiser(x, t, self.text(ids))
        return predicted


def _made(config: TextToImageConfig) -> TextToImage:
    return TextToImage(MMDiT(config.denoiser), PromptEncoder(TextTower(config.text)))


MAKERS: Makers = {"multimodal.TextToImage": lambda config: _made(from_plain(TextToImageConfig, config))}
"""What a bundle may hold."""
