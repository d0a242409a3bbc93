"""A Whisper's loss on texts that are known, for recordings of different lengths in one batch."""

from typing import NamedTuple

from torch import Tensor

from audio.targets import IGNORED
from audio.whisper import Whisper
from core.nn import Ctx, Memory, padded_tokens, token_losses
from core.nn.context import Tokens

__all__ = ["Heard", "encode_padded", "forced_states", "text_loss"]


class Heard(NamedTuple):
    """Encoded recordings (B, S, D), and which positions of each are its own."""

    audio: Tensor
    tokens: Tokens = Tokens()

    @property
    def memory(self) -> Memory:
        """What the decoder attends to."""
        return Memory(self.audio, self.tokens)


def encode_padded(model: Whisper, mel: Tensor, positions: Tensor | None = None) -> Heard:
    """Encode recordings of different lengths as if each were alone.

    Args:
        model: whose encoder is used.
        mel: (B, mels, frames), zero after the end of each recording.
        positions: (B,) int64, encoder positions that are a recording's own, half of its frames; None for all of them.
    """
    tokens = Tokens() if positions is None else padded_tokens(positions, mel.shape[-1] // 2)
    return Heard(model.encoder(mel, Ctx(tokens=tokens)).x, tokens)


def forced_states(model: Whisper, heard: Heard, tokens: Tensor) -> Tensor:
    """What the logits for the tokens (B, L) are made of, (B, L, D)."""
    return model.decoder.states(tokens, Ctx(memory=heard.memory)).x


def text_loss(model: Whisper, states: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[Tensor, int]:
    """Sum of the cross-entropies of the labels (B, L) that count, and how many these are."""
    return token_losses(states, model.decoder.tokens.weight, labels, IGNORED, smoothing)
