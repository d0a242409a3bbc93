"""Raw samples as they come through a pipe: PCM without a header, or behind that of a wav file."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["Pcm", "Samples", "pcm_blocks"]

Samples = Literal["u8", "s16le", "s24le", "s32le", "f32le"]

Read = Callable[[int], bytes]
"""Gives so many bytes, fewer if no more are there right now; none at the end: ``os.read`` of a pipe."""

BLOCK = 0.1  # seconds that are read at a time
RATES = 1_000, 768_000
WAV = {(1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le", (3, 32): "f32le"}  # (format, bits)
EXTENSIBLE = 0xFFFE  # a wav format whose number stands further behind
LONGEST_CHUNK = 1 << 20  # bytes of what else a header may hold


@dataclass(frozen=True)
class Pcm:
    """How samples are written: one number a channel, channel by channel.

    Attributes:
        rate: samples a second, of each channel.
        samples: a number's type.
        channels: that are averaged.

    Raises:
        InputError: for what there is not.
    """

    rate: int = 16_000
    samples: Samples = "s16le"
    channels: int = 1

    def __post_init__(self) -> None:
        if self.samples not in get_args(Samples):
            raise InputError(f"samples of type {self.samples}: expected one of {', '.join(get_args(Samples))}")
        if not RATES[0] <= self.rate <= RATES[1]:
            raise InputError(f"{self.rate} samples a second: expected {RATES[0]} to {RATES[1]}")
        if not 1 <= self.channels <= 64:
            raise InputError(f"{self.channels} channels: expected 1 to 64")

    @property
    def size(self) -> int:
        """Bytes of the samples of one moment."""
        return self.channels * int(self.samples.strip("usfle")) // 8

    def decode(self, data: bytes) -> Tensor:
        """Whole moments of samples to (n,), float32 in [-1, 1], channels averaged."""
        return torch.from_numpy(_numbers(data, self.samples).reshape(-1, self.channels).mean(1, dtype=np.float32))


def pcm_blocks(read: Read, pcm: Pcm = Pcm()) -> Iterator[tuple[Tensor, int]]:
    """Read to the end: blocks (n,) of a tenth of a second or less, as they come, and their rate.

    A wav header at the start counts more than `pcm`. A piece of a sample at the end is left out.

    Raises InputError for a wav header that can't be used.
    """
    held = _exactly(read, 12)
    if held[:4] == b"RIFF" and held[8:] == b"WAVE":
        pcm, held = _wav_header(read), b""
    while True:
        whole = len(held) // pcm.size * pcm.size
        if whole:
            yield pcm.decode(held[:whole]), pcm.rate
        held = held[whole:]
        new = read(max(int(BLOCK * pcm.rate), 1) * pcm.size)
        if not new:
            return
        held += new


def _wav_header(read: Read) -> Pcm:
    """Read on to the first sample. What it says of its length is not believed: a program in a pipe can't know it."""
    pcm = None
    while True:
        head = _exactly(read, 8)
        if len(head) < 8:
            raise InputError("the wav header from standard input ends before its samples")
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"data":
            if pcm is None:
                raise InputError("the wav header from standard input doesn't say what samples follow")
            return pcm
        if size > LONGEST_CHUNK:
            raise InputError("the wav header from standard input is damaged")
        chunk = _exactly(read, size + size % 2)
        if name == b"fmt " and len(chunk) >= 16:
            pcm = _wav_format(chunk)


def _wav_format(chunk: bytes) -> Pcm:
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
    if kind == EXTENSIBLE and len(chunk) >= 26:
        kind = struct.unpack("<H", chunk[24:26])[0]
    if (kind, bits) not in WAV:
        raise InputError(f"wav samples of format {kind} with {bits} bits from standard input: send PCM of 16 bits")
    return Pcm(rate, WAV[kind, bits], channels)  # type: ignore[arg-type]


def _exactly(read: Read, size: int) -> bytes:
    """So many bytes, or all there are."""
    data = b""
    while len(data) < size and (new := read(size - len(data))):
        data += new
    return data


def _numbers(data: bytes, samples: Samples) -> np.ndarray:
    if samples == "f32le":
        return np.frombuffer(data, "<f4")
    if samples == "u8":
        return np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
    if samples == "s24le":
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(parts), 4), np.uint8)
        wide[:, 1:] = parts
        return wide.view("<i4")[:, 0].astype(np.float32) / 2**31
    bits = int(samples[1:3])
    return np.frombuffer(data, f"<i{bits // 8}").astype(np.float32) / 2 ** (bits - 1)
