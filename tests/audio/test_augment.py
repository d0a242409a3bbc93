"""Augmentation of recordings: what each does, in closed form, and that it follows from the key alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.transforms import FrequencyMasking

from audio.augment import AddNoise, Shift, SpecAugment, Speed, Volume, changed
from audio.mel import LogMel
from core.data.audio import resample
from core.data.order import keys
from core.errors import InputError

KEYS = keys(0, 0, np.arange(200))
WAVE = 0.3 * torch.sin(torch.arange(8000) * 0.05)


def each(change: Callable[..., object]) -> list:
    return [change(WAVE, KEYS[n : n + 1]) for n in range(len(KEYS))]


@pytest.mark.parametrize("change", [Speed(), Volume(), AddNoise(), Shift()])
def test_follows_from_the_key_alone(change: Callable[..., object]) -> None:
    torch.manual_seed(1)
    first = each(change)
    torch.manual_seed(2)
    for one, other in zip(first, each(change), strict=True):
        assert torch.equal(one.wave, other.wave)
        assert one[1:] == other[1:]
    assert len({(*one.wave[:50].tolist(), len(one.wave)) for one in first}) > 2


def test_speed() -> None:
    found = each(Speed((0.8, 1.0, 1.25)))
    lengths = {len(one.wave): one.scale for one in found}
    assert lengths == {10_000: 1.25, 8_000: 1.0, 6_400: 0.8}
    fast = next(one for one in found if one.scale == 0.8)
    assert torch.equal(fast.wave, resample(WAVE, 20_000, 16_000))
    # a sine of 0.05 radians a sample has one of 0.0625 once it is 1.25 times as fast
    inner = slice(500, 5900)
    expected = 0.3 * torch.sin(torch.arange(6_400) * 0.0625)
    torch.testing.assert_close(fast.wave[inner], expected[inner], atol=2e-3, rtol=0)


def test_volume() -> None:
    gains = torch.stack([20 * torch.log10(one.wave.abs().max() / WAVE.abs().max()) for one in each(Volume(6))])
    assert gains.min() >= -6.01
    assert gains.max() <= 6.01
    assert gains.std() > 3


def test_noise_has_the_ratio_that_was_drawn() -> None:
    found = each(AddNoise((10, 10), probability=1))
    for one in found[:20]:
        ratio = 10 * torch.log10(WAVE.square().mean() / (one.wave - WAVE).square().mean())
        assert float(ratio) == pytest.approx(10, abs=0.05)
    share = np.mean([not torch.equal(one.wave, WAVE) for one in each(AddNoise(probability=0.3))])
    assert 0.2 < share < 0.4
    assert torch.equal(AddNoise(probability=1)(torch.zeros(100), KEYS[:1]).wave, torch.zeros(100))


def test_noise_from_a_folder(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hum.wav", np.sin(np.arange(3000) * 0.3) * 0.5, 16_000)
    found = AddNoise((20, 20), probability=1, folder=str(tmp_path))(WAVE, KEYS[:1]).wave - WAVE
    spectrum = torch.fft.rfft(found[:3000]).abs()
    assert int(spectrum.argmax()) == pytest.approx(0.3 / (2 * np.pi) * 3000, abs=1)
    with pytest.raises(InputError, match="no recordings of noise"):
        AddNoise(folder=str(tmp_path / "none"))


def test_times_move_with_the_sound() -> None:
    click = torch.zeros(16_000)
    click[8_000] = 1.0
    for n in range(20):
        found = changed(click, [Speed((0.8, 1.25)), Shift(0.3), Speed((0.8, 1.25))], KEYS[n : n + 1])
        heard = int(found.wave.abs().argmax()) / 16_000
        assert heard == pytest.approx(found.offset + found.scale * 0.5, abs=2e-4)


def test_spec_augment_hides_behind_the_mean() -> None:
    mel = LogMel()(WAVE)  # (80, 50)
    widths, heights = [], []
    for n in range(200):
        found = SpecAugment(times=1, time=0.2, bands=1, band=0.25)(mel, KEYS[n : n + 1])
        hidden = found != mel
        assert torch.equal(found[hidden], mel.mean().expand(int(hidden.sum())))
        widths.append(int(hidden.all(0).sum()))
        heights.append(int(hidden.all(1).sum()))
    # uniform from nothing to the most, as torchaudio's masks, whose most is left out
    assert (max(widths), max(heights)) == (10, 20)
    peers = [int((FrequencyMasking(21)(mel + 9) == 0).all(1).sum()) for _ in range(2000)]
    assert np.mean(heights) == pytest.approx(np.mean(peers), rel=0.15)
    assert torch.equal(SpecAugment(0, 0, 0, 0)(mel, KEYS[:1]), mel)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Speed((0.1,)), lambda: Speed(()), lambda: Volume(-1), lambda: Shift(-1), lambda: AddNoise((3, 1)),
        lambda: AddNoise(probability=2), lambda: SpecAugment(time=2), lambda: SpecAugment(times=-1),
    ],
)  # fmt: skip
def test_wrong_settings(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()
