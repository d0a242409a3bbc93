"""Whisper's encoder for inference on a processor with :mod:`core.simd`: 8-bit integers, also in the convolutions."""

import torch
from torch import Tensor, nn

from audio.whisper import AudioEncoder, placed
from core.nn import Ctx, Out
from core.nn.branch import joined
from core.nn.precision import replaced
from core.nn.tiled import TiledConvolution, TiledLinear

__all__ = ["TiledEncoder"]


class TiledEncoder(nn.Module):
    """As :class:`audio.whisper.AudioEncoder`; its result is bfloat16, as what the decoder makes of it.

    Frames stay rows from the first layer on: what a convolution reads for one result lies together, and both are linear
    layers, with GELU in them.

    Args:
        encoder: the exact one, float32 on a processor, with the kernel that its attention shall have; its blocks are
            changed.
    """

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.conv1, self.conv2 = (TiledConvolution(conv, gelu="none") for conv in (encoder.conv1, encoder.conv2))
        self.positions = encoder.positions
        self.blocks = joined(replaced(encoder.blocks, TiledLinear, lambda name, linear: True))
        self.norm = encoder.norm

    def forward(self, mel: Tensor, ctx: Ctx = Ctx()) -> Out:
        """Encode log-mel frames (B, mels, frames) -> (B, frames / 2, audio_dim), with the notes of the stack.

        Raises:
            ValueError: if there are more frames than positions.
        """
        x = mel.transpose(1, 2).float()  # (B, mels, frames) -> (B, frames, mels)
        x = self.conv2(self.conv1(x))
        x, notes = self.blocks(placed(x, self.positions, ctx), ctx)
        return Out(self.norm(x).to(torch.bfloat16), notes)
