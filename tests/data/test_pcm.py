"""Raw samples from a pipe, with and without a wav header, and blocks that wait for nobody."""

import io
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from core.data.live import Latest
from core.data.pcm import Pcm, Samples, pcm_blocks
from core.errors import InputError

SIGNAL = np.clip(np.random.default_rng(0).normal(0, 0.3, (5_000, 2)), -1, 0.99)


def in_pieces(data: bytes, size: int = 777) -> Callable[[int], bytes]:
    """As a pipe gives them: a few bytes at a time."""
    file = io.BytesIO(data)
    return lambda count: file.read(min(count, size))


def read(data: bytes, pcm: Pcm = Pcm(), size: int = 777) -> tuple[Tensor, int]:
    blocks = list(pcm_blocks(in_pieces(data, size), pcm))
    return torch.cat([block for block, _ in blocks]), blocks[0][1]


@pytest.mark.parametrize(
    ("samples", "subtype"),
    [("u8", "PCM_U8"), ("s16le", "PCM_16"), ("s24le", "PCM_24"), ("s32le", "PCM_32"), ("f32le", "FLOAT")],
)
@pytest.mark.parametrize("size", [1, 13, 10_000])
def test_equals_what_libsndfile_reads(samples: Samples, subtype: str, size: int) -> None:
    for channels in (1, 2):
        file = io.BytesIO()
        soundfile.write(file, SIGNAL[:, :channels], 11_025, format="WAV", subtype=subtype)
        expected = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)[0].mean(1)
        found, rate = read(file.getvalue(), size=size)
        assert rate == 11_025
        np.testing.assert_allclose(found, expected, atol=1e-6)
        raw = io.BytesIO()
        soundfile.write(raw, SIGNAL[:, :channels], 11_025, format="RAW", subtype=subtype)
        found, rate = read(raw.getvalue(), Pcm(22_050, samples, channels), size)
        assert rate == 22_050
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_sample_cut_in_two_is_left_out() -> None:
    assert len(read(b"\x01\x02" * 1000 + b"\x01")[0]) == 1000
    assert list(pcm_blocks(in_pieces(b""))) == []
    assert list(pcm_blocks(in_pieces(b"\x01"))) == []


def test_headers_that_cannot_be_used() -> None:
    file = io.BytesIO()
    soundfile.write(file, SIGNAL, 16_000, format="WAV", subtype="ULAW")
    for data, message in [
        (file.getvalue(), "wav samples of format 7 with 8 bits"),
        (b"RIFF\0\0\0\0WAVEfmt ", "ends before its samples"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "doesn't say what samples follow"),
        (b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\xff", "damaged"),
    ]:
        with pytest.raises(InputError, match=message):
            list(pcm_blocks(in_pieces(data)))
    for wrong in [{"rate": 1}, {"samples": "s8"}, {"channels": 0}]:
        with pytest.raises(InputError, match="expected"):
            Pcm(**wrong)


def test_what_comes_meanwhile_is_given_at_once() -> None:
    go = threading.Event()

    def source() -> Iterator[Tensor]:
        yield torch.zeros(1)
        go.wait()
        for number in range(1, 5):
            yield torch.full((2,), float(number))

    found, latest = [], Latest(source())
    for block in latest:
        found.append(block)
        go.set()
        time.sleep(0.2)
    assert [len(block) for block in found] == [1, 8]
    assert torch.cat(found).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_source_waits_when_nobody_listens() -> None:
    made: list[int] = []

    def source() -> Iterator[Tensor]:
        for number in range(100):
            made.append(number)
            yield torch.zeros(10)

    latest = Latest(source(), most=5)
    time.sleep(0.2)
    assert len(made) == 6
    assert sum(map(len, latest)) == 1000


def test_a_source_that_fails_or_is_closed() -> None:
    def broken() -> Iterator[Tensor]:
        yield torch.zeros(3)
        raise InputError("unplugged")

    blocks = iter(Latest(broken()))
    assert len(next(blocks)) == 3
    with pytest.raises(InputError, match="unplugged"):
        next(blocks)

    def endless() -> Iterator[Tensor]:
        while True:
            time.sleep(0.01)
            yield torch.zeros(1)

    latest = Latest(endless())
    for _ in latest:
        latest.close()
