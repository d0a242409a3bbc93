"""A denoiser with the text tower that tells it what to draw, as one model: what a bundle holds."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from core.weights import Bundle, Makers, from_plain, open_bundle
from diffusion.mmdit import MMDiT, MMDiTConfig
from multimodal.find_tokenizer import tokenizer_files, tokenizer_for
from multimodal.prompts import PromptEncoder, Prompts
from multimodal.text import TextConfig, TextTower

__all__ = ["MAKERS", "TextToImage", "TextToImageConfig", "open_text_to_image"]


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


def open_text_to_image(path: Path) -> tuple[MMDiT, Prompts, Bundle]:
    """The denoiser in a bundle, what encodes texts for it, and what the bundle says; in evaluation mode.

    Raises:
        InputError: if the bundle holds something else, or is damaged.
    """
    model, bundle = open_bundle(path, MAKERS)
    assert isinstance(model, TextToImage)
    model.eval()
    text = model.config.text
    tokenizer = tokenizer_for(path, text.vocab, text.context)
    return model.denoiser, Prompts(model.text, tokenizer, tokenizer_files(str(path))), bundle
