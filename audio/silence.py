"""Hear little of the silence that fills a window up: what a short recording takes follows from its own length.

Whisper was trained on windows of 30 s: without the silence at their end it hears worse, and falls into loops. But the
silence is much the same everywhere, so that a few of its positions, each with the weight of all that it stands for, do
what all of them do. Weights as in token merging (Bolya et al. 2022, arXiv:2210.09461, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audio.align import STRIDE
from audio.mel import frame_at
from audio.whisper import Whisper
from core.errors import InputError
from core.nn import Ctx, Tokens

__all__ = ["Silence"]

STEP = frame_at(1.0) // STRIDE  # positions: windows are brought to few lengths, which differ by so much


@dataclass(frozen=True)
class Silence:
    """How much of the silence after a recording is encoded.

    Attributes:
        margin: seconds that are encoded as they are, at least.
        one_of: of the rest, if it is half of the window or more, one position of so many is encoded and stands for
            them; 1: all are.

    Raises:
        InputError: for a number that makes no sense.
    """

    margin: float = 1.0
    one_of: int = 8

    def __post_init__(self) -> None:
        if self.margin < 0 or self.one_of < 1:
            raise InputError(f"silence: a margin of {self.margin} s, one of {self.one_of}: expected at least 0 and 1")

    def encode(self, model: Whisper, mel: Tensor, frames: Sequence[int]) -> Tensor:
        """Encode windows (B, mels, T) -> (B, T / 2, audio_dim) like ``model.encode``, each as if it were alone.

        A position that is left out gets what the one that stands for it has.

        Args:
            model: of which the encoder is used.
            mel: of the model's type, and on its device.
            frames: of each window that hold audio; silence follows them.
        """
        whole = [self._whole(count, mel.shape[-1] // STRIDE) for count in frames]
        groups = {count: [row for row, other in enumerate(whole) if other == count] for count in whole}
        if len(groups) == 1:
            return self._encode(model, mel, whole[0])
        found: dict[int, Tensor] = {}
        for count, rows in groups.items():
            found |= dict(zip(rows, self._encode(model, mel[rows], count), strict=True))
        return torch.stack([found[row] for row in range(len(mel))])

    def _whole(self, frames: int, positions: int) -> int:
        """The first positions of a window, which are encoded as they are."""
        least = -(-(frames + frame_at(self.margin)) // STRIDE)
        return min(-(-least // STEP) * STEP, positions)

    def _encode(self, model: Whisper, mel: Tensor, whole: int) -> Tensor:
        positions = mel.shape[-1] // STRIDE
        if self.one_of == 1 or whole > positions // 2:  # weights make attention slower: little would be gained
            return model.encode(mel)
        first = torch.arange(whole, positions, self.one_of, device=mel.device)
        counts = (positions - first).clamp(max=self.one_of)
        chosen = torch.cat([torch.arange(whole, device=mel.device), first + (counts - 1) // 2])
        counts = torch.cat([counts.new_ones(whole), counts])
        # A key that stands for n others as well has n + 1 times its weight: log(n + 1) is added to its scores.
        bias = counts.log().to(mel.dtype)[None, None, None]  # (1, 1, 1, S)
        x = model.encoder(mel, Ctx(tokens=Tokens(coords=chosen[None]), bias=bias)).x
        return x.repeat_interleave(counts, dim=1)
