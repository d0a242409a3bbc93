"""Read recordings as mono float32 waveforms, a block at a time, whatever their format and sample rate.

wav, flac, ogg and mp3 are read by libsndfile (soundfile); m4a, mp4, webm and others by FFmpeg (PyAV, the extra
``media``). Of a damaged mp3, libmpg123 within libsndfile writes notes to stderr; libsndfile has no switch for them (its
issue 958).
"""

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import soundfile
import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["LONGEST", "Recording", "read_audio", "resample", "resampled"]

Source = str | os.PathLike[str] | bytes | BinaryIO

LONGEST = 12 * 3600.0  # seconds: a small file can unpack to days of silence, and has to stop somewhere

_BLOCK_SECONDS = 10
_BLOCK_VALUES = 1 << 22  # samples times channels held at once
_UNKNOWN_LENGTH = 1 << 62  # frames; libsndfile gives a still larger number for a flac that doesn't say how many it has
_RATES = (1_000, 1_000_000)  # Hz, what a recording may claim

# FFmpeg's default filter (swresample: 32 taps, cutoff 0.97, Kaiser beta 9), so that a file sounds to a model as it
# does to the tools that models are compared with.
_FILTER = {"lowpass_filter_width": 16, "rolloff": 0.97, "resampling_method": "sinc_interp_kaiser", "beta": 9.0}

# What FFmpeg may take a file for: containers of sound and film, no playlists, which would open other files and
# addresses.
_CONTAINERS = "mov,matroska,asf,avi,flac,ogg,mp3,wav,aac,ac3,eac3,aiff,caf,amr,ape,au,flv,mpeg,mpegts,tta,wv,w64,dsf"


class Recording:
    """A recording that is read a block at a time, as often as one likes: hours of it need no memory.

    Attributes:
        name: what errors call it.
        rate: of the blocks, Hz.
        promised: how long it says that it is, in seconds; None when it doesn't say.
    """

    def __init__(
        self, source: Source, rate: int = 16_000, longest: float = LONGEST, name: str | os.PathLike[str] = "audio"
    ) -> None:
        """`source` is a file's path, what is in a file, or an open binary file that can seek; the latter need a `name`.

        Raises InputError, naming the file, when it is missing, empty, a folder, no audio, without an audio stream, or
        says that it lasts more than `longest` seconds.
        """
        self.content = None if isinstance(source, str | os.PathLike) else source
        self.name = Path(source if isinstance(source, str | os.PathLike) else name)
        self.rate = rate
        self.longest = longest
        _check_file(self.name, self.content)
        with _opened(self.name, self.content) as opened:
            self.promised = opened.promised
            if not _RATES[0] <= opened.rate <= _RATES[1]:
                raise InputError(
                    f"{self.name} claims {opened.rate} samples a second: expected {_RATES[0]} to {_RATES[1]}"
                )
        if self.promised is not None and self.promised > longest:
            raise InputError(_too_long(self.name, longest))

    def blocks(self, start: int = 0) -> Iterator[Tensor]:
        """Read it from the start, or from a later second on: (samples,), float32 in [-1, 1], channels averaged.

        Raises InputError, naming the file, when it is damaged, cut short (flac), holds nothing from there on, or lasts
        more than `longest` seconds.
        """
        empty = True
        with _opened(self.name, self.content, start) as opened:
            checked = _checked(self.name, opened.blocks, opened.rate, self.longest, start)
            for block in resampled(checked, opened.rate, self.rate):
                empty = empty and not len(block)
                yield block.clamp_(-1.0, 1.0)
        if empty:
            raise InputError(
                f"{self.name} holds no audio{f' beyond {start} s' if start else ': its length is 0 seconds'}"
            )


def read_audio(source: Source, rate: int = 16_000, longest: float = LONGEST, name: str = "audio") -> Tensor:
    """All of a :class:`Recording` at once: (samples,), float32 in [-1, 1] at `rate` Hz, channels averaged.

    Raises InputError as that does.
    """
    return torch.cat(list(Recording(source, rate, longest, name).blocks()))


def resample(audio: Tensor, source_rate: int, rate: int) -> Tensor:
    """`audio` (samples,) at `source_rate` Hz brought to `rate` Hz: (ceil(samples * rate / source_rate),)."""
    return torch.cat(list(resampled([audio], source_rate, rate)))


class _Opened(NamedTuple):
    """A file that is being read."""

    blocks: Iterator[Tensor]  # of mono samples
    rate: int  # samples a second
    promised: float | None  # seconds


def _check_file(path: Path, content: bytes | BinaryIO | None) -> None:
    if content is not None:
        if content == b"":
            raise InputError(f"{path} is empty (0 bytes): expected audio")
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder: give an audio file")
    if not path.exists():
        raise InputError(f"{path} doesn't exist: give an audio file")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file: give an audio file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes): give an audio file")


@contextmanager
def _opened(path: Path, content: bytes | BinaryIO | None, start: int = 0) -> Iterator[_Opened]:
    """Opened by the first library that can read the file, or what is in it; at a second after its start."""
    try:
        sound = _Stream(path if content is None else _rewound(content))
    except soundfile.LibsndfileError as error:
        with _opened_by_ffmpeg(path, content, _reason(error)) as opened:
            yield opened._replace(blocks=_after(opened.blocks, start * opened.rate))
        return
    with sound:
        said = 0 < sound.frames < _UNKNOWN_LENGTH
        first = start * sound.samplerate
        if said:
            blocks = _soundfile_blocks(path, sound, _sought(path, sound, first) if first else 0)
        else:
            blocks = _after(_soundfile_blocks(path, sound), first)
        yield _Opened(blocks, sound.samplerate, sound.frames / sound.samplerate if said else None)


def _sought(path: Path, sound: soundfile.SoundFile, frame: int) -> int:
    """Pass over what comes before a frame, or everything; return how many frames that are."""
    try:
        return sound.seek(min(frame, sound.frames))
    except soundfile.LibsndfileError as error:
        raise InputError(_broken(path, frame / sound.samplerate, _reason(error))) from error


def _after(blocks: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """What comes after some samples, of a file in which one can't tell where they end without reading them."""
    for block in blocks:
        if len(block) > samples:
            yield block[samples:]
        samples = max(0, samples - len(block))


def _rewound(content: bytes | BinaryIO) -> BinaryIO:
    if isinstance(content, bytes):
        return io.BytesIO(content)
    content.seek(0)
    return content


class _Stream(soundfile.SoundFile):
    """Reads straight on. soundfile would seek after each block, which breaks mp3 and flac of unknown length."""

    def seekable(self) -> bool:
        return False


def _soundfile_blocks(path: Path, sound: _Stream, read: int = 0) -> Iterator[Tensor]:
    """The rest of a file of which so many samples are `read`, or passed over."""
    frames = max(1, min(_BLOCK_SECONDS * sound.samplerate, _BLOCK_VALUES // sound.channels))
    while True:
        try:
            block = sound.read(frames, dtype="float32", always_2d=True)  # (frames, channels)
        except soundfile.LibsndfileError as error:
            raise InputError(_broken(path, read / sound.samplerate, _reason(error))) from error
        if not len(block):
            break
        read += len(block)
        yield torch.from_numpy(block.mean(axis=1))
    if sound.format == "FLAC" and read < sound.frames < _UNKNOWN_LENGTH:  # cut between two frames: no error of its own
        raise InputError(
            _broken(path, read / sound.samplerate, f"{sound.frames / sound.samplerate:.1f} s were promised")
        )


@contextmanager
def _opened_by_ffmpeg(path: Path, content: bytes | BinaryIO | None, refusal: str) -> Iterator[_Opened]:
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"{path} is not readable as wav, flac, ogg or mp3 ({refusal}): "
            "for other formats, pip install 'sensorium[media]'"
        ) from error
    # a file object, never a name: FFmpeg would also take addresses
    with path.open("rb") if content is None else nullcontext(_rewound(content)) as file:
        try:
            container = av.open(file, "r", options={"format_whitelist": _CONTAINERS, "protocol_whitelist": ""})
        except (av.FFmpegError, ValueError) as error:
            raise InputError(f"{path} is not audio in a known format ({_reason(error)})") from error
        with container:
            if not container.streams.audio:
                raise InputError(f"{path} holds no audio stream")
            stream = container.streams.audio[0]
            promised = container.duration / av.time_base if container.duration else None
            yield _Opened(_ffmpeg_blocks(path, container, stream), stream.rate or 0, promised)


def _ffmpeg_blocks(path: Path, container: Any, stream: Any) -> Iterator[Tensor]:
    import av

    planar = av.AudioResampler(format="fltp", rate=stream.rate)  # the rate and channels stay as they are
    waiting: list[Tensor] = []
    read = 0
    try:
        for frame in itertools.chain(container.decode(stream), [None]):
            for converted in planar.resample(frame):
                waiting.append(torch.from_numpy(converted.to_ndarray().mean(axis=0)))  # (channels, frames) -> (frames,)
                read += len(waiting[-1])
            if waiting and (frame is None or sum(map(len, waiting)) >= _BLOCK_SECONDS * stream.rate):
                yield torch.cat(waiting)
                waiting = []
    except (av.FFmpegError, ValueError) as error:
        raise InputError(_broken(path, read / stream.rate, _reason(error))) from error


def _checked(path: Path, blocks: Iterable[Tensor], rate: int, longest: float, seconds: float) -> Iterator[Tensor]:
    """The blocks that come `seconds` after the start."""
    for block in blocks:
        seconds += len(block) / rate
        if seconds > longest:
            raise InputError(_too_long(path, longest))
        if not block.isfinite().all():
            raise InputError(
                f"{path} holds samples that are no numbers (NaN or infinite), within {seconds:.0f} s of its start"
            )
        yield block


def resampled(blocks: Iterable[Tensor], source_rate: int, rate: int) -> Iterator[Tensor]:
    """Resample a stream as if it were one signal: each block is filtered together with its surroundings."""
    if source_rate == rate:
        yield from blocks
        return
    # An odd rate (44,099 Hz) would need a filter bank of gigabytes. The nearest simple ratio is off by 2.5e-4 in the
    # worst case, by 1e-6 for the rates of old machines.
    ratio = Fraction(rate, source_rate).limit_denominator(2_000)
    new, old = ratio.numerator, ratio.denominator
    filtered = _filtered(old, new)
    context = -(-filtered.width // old) * old if new != old else 0  # whole steps of `old` samples
    held = torch.zeros(0)
    left = 0  # samples at the start of `held` that were resampled before
    for block in blocks:
        held = torch.cat([held, block])
        ready = max(0, len(held) - left - context) // old * old
        if ready:
            yield filtered(held[: left + ready + context])[left * new // old : (left + ready) * new // old]
            keep = min(context, left + ready)
            held, left = held[left + ready - keep :], keep
    if len(held):
        yield filtered(held)[left * new // old :]


@lru_cache(maxsize=8)  # making one takes longer than using it on a spoken word
def _filtered(old: int, new: int) -> Any:
    """What resamples a signal from `old` to `new` samples in the same time."""
    from torchaudio.transforms import Resample  # imported here: most tools of ours never resample

    return Resample(old, new, dtype=torch.float64, **_FILTER).float()  # made in float32 its taps are off by 1e-5


def _too_long(path: Path, longest: float) -> str:
    return f"{path} is longer than {longest / 3600:g} hours: cut it into parts, or raise the limit"


def _broken(path: Path, seconds: float, reason: str) -> str:
    return f"{path} is damaged or cut short: it can't be read beyond {seconds:.1f} s ({reason})"


def _reason(error: Exception) -> str:
    """What a library says went wrong, without the file's name, on one line."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()).rstrip(".").lower()
