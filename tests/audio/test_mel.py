"""The log-mel spectrogram equals openai-whisper's, whose filters librosa computed."""

from pathlib import Path

import numpy as np
import pytest
import torch
import whisper
from whisper.audio import log_mel_spectrogram, pad_or_trim

from audio.mel import HOP, WINDOW_FRAMES, LogMel, fit_frames, mel_filters
from core.data.audio import read_audio


@pytest.mark.parametrize("mels", [80, 128])
def test_filters_equal_librosas(mels: int) -> None:
    with np.load(Path(whisper.__file__).parent / "assets" / "mel_filters.npz") as file:
        reference = torch.from_numpy(file[f"mel_{mels}"])
    torch.testing.assert_close(mel_filters(mels), reference, rtol=0, atol=1e-8)


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("samples", [1, 399, 16_000, 16_000 * 30, 16_000 * 130 + 77])
def test_equals_openai_on_noise(mels: int, samples: int) -> None:
    audio = torch.randn(samples) * torch.linspace(0, 0.3, samples)
    reference = log_mel_spectrogram(audio, mels, padding=480_000)
    ours = LogMel(mels)(audio, padding=480_000)
    assert ours.shape == reference.shape == (mels, (samples + 480_000) // HOP)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)


def test_equals_openai_on_speech(assets: Path) -> None:
    audio = read_audio(assets / "speech" / "leopard" / "quilter.wav")
    torch.testing.assert_close(LogMel()(audio), log_mel_spectrogram(audio), rtol=0, atol=1e-5)


def test_a_batch_changes_nothing() -> None:
    loud, quiet = torch.randn(16_000), 1e-3 * torch.randn(16_000)
    both = LogMel()(torch.stack([loud, quiet]))
    torch.testing.assert_close(both[0], log_mel_spectrogram(loud), rtol=0, atol=1e-5)
    torch.testing.assert_close(both[1], log_mel_spectrogram(quiet), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [0, 1, 2999, 3000, 3001])
def test_fitting_equals_openai(frames: int) -> None:
    mel = torch.randn(2, 80, frames)
    assert torch.equal(fit_frames(mel), pad_or_trim(mel, WINDOW_FRAMES))


def test_too_short() -> None:
    with pytest.raises(ValueError, match="200 samples is too short"):
        LogMel()(torch.zeros(200))
    assert LogMel()(torch.zeros(201)).shape == (80, 1)
