"""The log-mel spectrogram of a recording of any length, a part at a time."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor

from audio.mel import FFT, HOP, SAMPLE_RATE, WINDOW_SECONDS, LogMel

__all__ = ["LongMel"]

_KEPT = 10 * 60 * SAMPLE_RATE // HOP  # frames, 10 minutes, that are kept: up to there a recording is read once


class LongMel:
    """What :class:`audio.mel.LogMel` makes of a whole recording with 30 s of silence after it, without holding it all.

    The floor of the spectrogram lies below the loudest value of the recording, so it is read to its end first, and
    again, if it is long, for its frames.

    Attributes:
        samples: of the recording.
        frames: of the recording, without the silence.
    """

    def __init__(self, log_mel: LogMel, blocks: Callable[[], Iterable[Tensor]]) -> None:
        """`blocks` gives the recording's samples from the start, (samples,) at 16 kHz, at each call."""
        self.log_mel = log_mel
        self.samples = 0
        self.peak = torch.tensor(-torch.inf)
        kept: list[Tensor] | None = []
        count = 0
        for log in self._log_power(self._counted(blocks())):
            self.peak = torch.maximum(self.peak, log.max())
            count += log.shape[-1]
            kept = None if kept is None or count > _KEPT else [*kept, log]
        self.frames = self.samples // HOP
        self.kept = kept
        self.blocks = blocks
        self.parts: Iterator[Tensor] = iter(())
        self.first = 0  # the frame with which `held` begins
        self.held = torch.zeros(log_mel.mels, 0)
        self._rewind()

    def __call__(self, first: int, count: int) -> Tensor:
        """The frames from `first` on (mels, count): fastest where each call goes on after the one before.

        Raises ValueError when they lie beyond the silence.
        """
        if first < self.first:
            self._rewind()
        while self.first + self.held.shape[-1] < first + count:
            part = next(self.parts, None)
            if part is None:
                raise ValueError(f"frames up to {first + count} of a recording of {self.frames} and 30 s of silence")
            self.held = torch.cat([self.held, self.log_mel.scaled(part, self.peak)], dim=-1)
            self._forget(first)
        self._forget(first)
        return self.held[:, :count].clone()

    def _rewind(self) -> None:
        self.parts = self._log_power(self.blocks()) if self.kept is None else iter(self.kept)
        self.first, self.held = 0, self.held[:, :0]

    def _forget(self, first: int) -> None:
        dropped = min(first - self.first, self.held.shape[-1])
        self.held = self.held[:, dropped:]
        self.first += dropped

    def _counted(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        for block in blocks:
            self.samples += len(block)
            yield block

    def _log_power(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decades of mel power (mels, frames), in parts, of the recording and 30 s of silence."""
        half = FFT // 2
        held = torch.zeros(0)
        begun = False
        for block in chain(blocks, [torch.zeros(WINDOW_SECONDS * SAMPLE_RATE + half)]):
            held = torch.cat([held, block])
            if not begun and len(held) > half:
                held = torch.cat([held[1 : half + 1].flip(0), held])  # mirrored: frame i is centred on sample 160 i
                begun = True
            count = (len(held) - FFT) // HOP + 1
            if begun and count > 0:
                yield self.log_mel.log_power(held[None, : (count - 1) * HOP + FFT])[0]
                held = held[count * HOP :]
