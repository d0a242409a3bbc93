"""Voice activity: the network equals silero-vad's own, in blocks of any size."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from audio import vad
from audio.vad import FRAME, VoiceStream, load_silero
from core.data.audio import read_audio
from core.errors import InputError


def silero(audio: Tensor) -> Tensor:
    """What the TorchScript program of the package makes of a recording, a frame a call."""
    spec = vad.find_spec("silero_vad")
    program = torch.jit.load(Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.jit")
    padded = torch.nn.functional.pad(audio, (0, -len(audio) % FRAME))
    return torch.stack([program(frame, 16_000)[0, 0] for frame in padded.split(FRAME)])


@pytest.mark.parametrize("name", ["jfk.flac", "leopard/quilter.wav", "nonspeech/empty.wav"])
def test_equals_silero(name: str, assets: Path) -> None:
    audio = read_audio(assets / "speech" / name)
    torch.testing.assert_close(VoiceStream()(audio, last=True), silero(audio), rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [1, 100, 512, 7_777])
def test_blocks_of_any_size(size: int, assets: Path) -> None:
    audio = read_audio(assets / "speech" / "jfk.flac")[: 2_000 if size == 1 else None]
    stream = VoiceStream()
    parts = [*(stream(block) for block in audio.split(size)), stream(audio[:0], last=True)]
    torch.testing.assert_close(torch.cat(parts), VoiceStream()(audio, last=True), rtol=0, atol=2e-5)


def test_no_audio() -> None:
    assert VoiceStream()(torch.zeros(0), last=True).shape == (0,)


def test_threads_are_left_alone() -> None:
    before = torch.get_num_threads()
    load_silero.cache_clear()
    load_silero()
    assert torch.get_num_threads() == before


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    load_silero.cache_clear()
    monkeypatch.setattr(vad, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install silero-vad"):
        load_silero()
