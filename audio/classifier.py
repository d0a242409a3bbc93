"""Sounds and keywords by class, from Whisper's encoder: projected, averaged over time, and judged by a linear layer.

The same as transformers' ``WhisperForAudioClassification``, but for recordings that are shorter than the window.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from audio.whisper import AudioEncoder, WhisperConfig
from core.nn import Ctx, padded_tokens
from core.nn.context import Tokens

__all__ = ["AudioClassifier", "ClassifierConfig"]


@dataclass(frozen=True)
class ClassifierConfig:
    """The shape of a classifier.

    Attributes:
        encoder: a Whisper, of which the encoder is taken.
        classes: their number.
        projection: width of what is averaged.
    """

    encoder: WhisperConfig
    classes: int
    projection: int = 256


class AudioClassifier(nn.Module):
    """Log-mel frames to logits of classes."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config.encoder)
        self.projection = nn.Linear(config.encoder.audio_dim, config.projection)
        self.head = nn.Linear(config.projection, config.classes)

    def forward(self, mel: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return the logits (B, classes) of log-mel frames (B, mels, frames).

        Args:
            mel: zero after the end of each recording.
            positions: (B,) int64, encoder positions that are a recording's own; None for all of them.
        """
        tokens = Tokens() if positions is None else padded_tokens(positions, mel.shape[-1] // 2)
        x = self.projection(self.encoder(mel, Ctx(tokens=tokens)).x)  # (B, S, D)
        if tokens.index is None or positions is None:
            return self.head(x.mean(1))
        own = (tokens.index >= 0)[..., None]
        return self.head(x.masked_fill(~own, 0).sum(1) / positions[:, None])
