"""Pieces of long recordings: what a cut of the whole gives, however it is stored; and as manifests name them."""

import json
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch

from audio.tasks.writer import TranscriptWriter
from core.data.audio import read_audio
from core.data.manifest import Manifest
from core.data.piece import read_piece
from core.data.recordings import Held
from core.data.utterance import Spoken, utterance
from core.errors import InputError

PIECES = [(0.0, 1.5), (0.33, 2.0), (1.0, 0.25), (7.123, 3.3), (10.7, None)]


def wave(seconds: float, rate: int) -> np.ndarray:
    """Noise over a rising tone: no two moments are alike."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.05, len(time))
    return (0.4 * np.sin(2 * np.pi * (200 + 40 * time) * time) + noise).astype(np.float32)


@pytest.fixture(scope="module", params=["wav", "flac", "ogg", "mp3", "m4a", "16 kHz", "flac of unknown length"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 12 s: two blocks."""
    kind = request.param
    path = tmp_path_factory.mktemp("stored") / f"talk.{ {'16 kHz': 'wav'}.get(kind, kind.split()[0]) }"
    rate = 16_000 if kind == "16 kHz" else 44_100
    if kind == "m4a":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(wave(12, rate)[None], format="fltp", layout="mono")
            frame.sample_rate = rate
            for part in [frame, None]:
                container.mux(stream.encode(part))
        return path
    soundfile.write(path, wave(12, rate), rate)
    if kind == "flac of unknown length":  # as an encoder in a pipe leaves it
        data = bytearray(path.read_bytes())
        data[21] &= 0xF0
        data[22:26] = bytes(4)
        path.write_bytes(data)
    return path


def test_a_piece_is_a_cut_of_the_whole(stored: Path) -> None:
    whole = read_audio(stored)
    for offset, seconds in PIECES:
        first = round(offset * 16_000)
        expected = whole[first : None if seconds is None else first + round(seconds * 16_000)]
        torch.testing.assert_close(read_piece(stored, offset, seconds), expected, rtol=0, atol=1e-5)


def test_soundfile_reads_the_same(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", wave(5, 16_000), 16_000)
    expected, _ = soundfile.read(tmp_path / "talk.wav", start=40_000, frames=16_000, dtype="float32")
    assert torch.equal(read_piece(tmp_path / "talk.wav", 2.5, 1.0), torch.from_numpy(expected))


def test_pieces_that_are_not_there(stored: Path) -> None:
    assert len(read_piece(stored, 11.5, 0.55)) < 8_900  # rounded up by whoever wrote the manifest
    for offset, seconds in [(11.5, 1.0), (12.2, None), (90.0, 1.0), (90.0, None)]:
        with pytest.raises(InputError, match=r"talk\.\w+ (ends after|holds no audio beyond)"):
            read_piece(stored, offset, seconds)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two pieces of one recording, the rest of it, and all of it, in NeMo's words."""
    soundfile.write(tmp_path / "talk.wav", wave(6, 8_000), 8_000)
    rows = [
        {"audio_filepath": "talk.wav", "offset": 0, "duration": 2.5, "text": "one"},
        {"audio_filepath": "talk.wav", "offset": 2.5, "duration": 1.25, "text": "two"},
        {"audio_filepath": "talk.wav", "offset": "3.75", "text": "three"},
        {"audio_filepath": "talk.wav", "duration": 5.9, "text": "all"},
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_a_manifest_of_pieces(manifest: Path) -> None:
    found = Manifest().open(manifest, "train")
    assert found is not None
    whole = read_audio(manifest / "talk.wav")
    cuts = [(0, 40_000), (40_000, 60_000), (60_000, 96_000), (0, 96_000)]
    for wave, (first, end) in zip(found.read(range(4)), cuts, strict=True):
        torch.testing.assert_close(wave, whole[first:end], rtol=0, atol=1e-5)
    assert [said.text for said in found.captions or []] == ["one", "two", "three", "all"]
    assert [len(wave) for wave in Held(found, longest=2.5).read([0, 1, 2])] == [40_000, 20_000, 36_000]


def test_tables_may_name_pieces_too(manifest: Path) -> None:
    (manifest / "train.jsonl").unlink()
    (manifest / "train.csv").write_text("path,offset,duration,text\ntalk.wav,1,0.5,a\ntalk.wav,,,b\n")
    found = Manifest().open(manifest, "train")
    assert found is not None
    assert [len(wave) for wave in found.read([0, 1])] == [8_000, 96_000]


def test_pseudo_labels_of_pieces_are_a_manifest_of_pieces(manifest: Path) -> None:
    given = Manifest().open(manifest, "predict")
    writer, trainer = TranscriptWriter(manifest), SimpleNamespace(is_global_zero=True)
    trainer.datamodule = SimpleNamespace(items=lambda split: given)
    batch = {"index": torch.arange(4), "text": list("abcd"), "language": "en", "task": "transcribe"}
    writer.on_predict_batch_end(trainer, None, batch, None, 0)
    writer.on_predict_end(trainer, None)
    found = Manifest().open(manifest / "transcripts.jsonl", "train")
    assert given is not None
    assert found is not None
    for one, other in zip(given.read(range(4)), found.read(range(4)), strict=True):
        assert torch.equal(one, other)
    assert [said.text for said in found.captions or []] == list("abcd")


def test_times_count_from_the_piece() -> None:
    said = utterance({"offset": 100, "segments": [{"start": 0, "end": 1, "text": "a"}]}, "row 1")
    assert (said.offset, said.segments) == (100.0, (Spoken(0, 1, "a"),))


@pytest.mark.parametrize("offset", [-1, "soon", float("nan"), float("inf")])
def test_wrong_offsets(offset: object) -> None:
    with pytest.raises(InputError, match=r"row 1: the offset is .*, expected seconds of 0 or more"):
        utterance({"offset": offset}, "row 1")
