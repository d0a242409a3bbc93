"""A spectrogram that is made a part at a time equals the one that is made at once."""

from itertools import pairwise

import pytest
import torch

from audio import long_mel
from audio.long_mel import LongMel
from audio.mel import WINDOW_FRAMES, LogMel


@pytest.fixture(params=["kept", "read twice"])
def _kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "read twice":
        monkeypatch.setattr(long_mel, "_KEPT", 100)


@pytest.mark.usefixtures("_kept")
@pytest.mark.parametrize("samples", [0, 1, 159, 201, 16_000 * 7 + 77, 16_000 * 65])
@pytest.mark.parametrize("size", [100, 3_333, 160_000])
def test_equals_all_at_once(samples: int, size: int) -> None:
    if samples > 100_000 and size == 100:
        size = 1_000
    audio = torch.randn(samples) * torch.linspace(0.001, 0.3, samples)  # the loudest frame is the last one
    whole = LogMel(80)(audio, padding=480_000)
    long = LongMel(LogMel(80), lambda: audio.split(size) if samples else [])
    assert (long.samples, long.frames) == (samples, samples // 160)
    starts = [*range(0, long.frames, 777), long.frames]
    for first in starts:
        part = long(first, WINDOW_FRAMES)
        torch.testing.assert_close(part, whole[:, first : first + WINDOW_FRAMES], rtol=0, atol=1e-5)
        assert long.held.shape[-1] < WINDOW_FRAMES + 3_000
    assert all(a < b for a, b in pairwise(starts)) or samples < 160


@pytest.mark.usefixtures("_kept")
def test_back_and_forth() -> None:
    audio = torch.randn(160_000)
    whole = LogMel(80)(audio, padding=480_000)
    long = LongMel(LogMel(80), lambda: audio.split(16_000))
    for first in (500, 400, 900, 0):
        torch.testing.assert_close(long(first, 100), whole[:, first : first + 100], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="a recording of 1000"):
        long(2_000, 3_000)
