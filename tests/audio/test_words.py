"""Word timestamps equal openai-whisper's, and are near to where the words were spoken."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_transcribe import COLD, reference

from audio.decode import Search
from audio.settings import OPENAI, Settings
from audio.transcribe import Transcriber
from audio.transcript import Transcript
from core.data.audio import read_audio
from core.errors import InputError

CLOSE = 0.02 + 1e-6  # seconds: one encoder position


def assert_same_words(ours: Transcript, theirs: dict, close: float = CLOSE) -> None:
    """Same text, segments and words; times within `close`."""
    assert ours.text == theirs["text"].strip()
    assert [segment.text for segment in ours.segments] == [segment["text"] for segment in theirs["segments"]]
    for segment, expected in zip(ours.segments, theirs["segments"], strict=True):
        assert segment.start == pytest.approx(expected["start"], abs=close)
        assert segment.end == pytest.approx(expected["end"], abs=close)
        assert [word.text for word in segment.words] == [word["word"] for word in expected["words"]]
        for word, other in zip(segment.words, expected["words"], strict=True):
            assert word.start == pytest.approx(other["start"], abs=close)
            assert word.end == pytest.approx(other["end"], abs=close)
            assert word.probability == pytest.approx(other["probability"], abs=1e-3)


def plain(word: str) -> str:
    return word.strip(" .,").lower()


def clips_and_beams() -> list:
    """Every clip greedily and with five beams, few in each case, so that processes share them.

    By default one of each kind with words in it is heard both ways: five beams of openai-whisper take their time.
    """
    few = ["jfk.flac", "leopard/*.wav", "ljspeech/*7.wav"]
    greedy = ["nonspeech/*.wav", "fsdd/4_*_1.wav"]
    more = [f"ljspeech/*{digit}.wav" for digit in (1, 2, 3, 4, 5, 6, 8, 9, 0)]
    cases = [pytest.param(clips, beams) for clips in few for beams in (1, 5)]
    cases += [pytest.param(clips, 1) for clips in greedy]
    left = [(clips, 5) for clips in greedy] + [(clips, beams) for clips in more for beams in (1, 5)]
    return cases + [pytest.param(*case, marks=pytest.mark.thorough) for case in left]


@pytest.mark.parametrize(("clips", "beams"), clips_and_beams())
def test_real_clips(clips: str, beams: int, tiny_en: tuple, assets: Path) -> None:
    settings = replace(OPENAI, word_timestamps=True, search=Search(beams=beams), fallback=COLD)
    transcriber = Transcriber(tiny_en[0], settings=settings)
    paths = sorted((assets / "speech").glob(clips))
    assert paths
    for path in paths[: 3 if clips.startswith("fsdd") else None]:
        audio = read_audio(path)
        theirs = reference(tiny_en[1], audio, word_timestamps=True, beam_size=beams if beams > 1 else None)
        assert_same_words(transcriber(audio), theirs)


def test_clips_with_pauses_between(tiny_en: tuple, assets: Path) -> None:
    speech = assets / "speech"
    parts = [read_audio(path) for path in (speech / "jfk.flac", speech / "leopard/quilter.wav")]
    hiss = 0.01 * torch.randn(16_000 * 6)
    audio = torch.cat([hiss, parts[0], torch.zeros(16_000 * 9), parts[1]])
    options = {"word_timestamps": True, "hallucination_silence_threshold": 2.0, "clip_timestamps": [1.0, 25.5, 26.0]}
    ours = Transcriber(tiny_en[0], settings=replace(OPENAI, fallback=COLD, **options))(audio)
    assert sum(len(segment.words) for segment in ours.segments) > 20
    assert_same_words(ours, reference(tiny_en[1], audio, **options))


def test_words_of_a_batch_are_those_of_each_alone(tiny_en: tuple, assets: Path) -> None:
    transcriber = Transcriber(tiny_en[0], settings=Settings(word_timestamps=True))
    names = ("leopard/quilter.wav", "ljspeech/LJ001-0002.wav", "nonspeech/noise_1000ms.wav")
    paths = [assets / "speech" / name for name in names]
    for path, job in zip(paths, transcriber.each(paths), strict=True):
        alone = transcriber(path)
        assert job.transcript.text == alone.text
        found, expected = (
            [word for segment in one.segments for word in segment.words] for one in (job.transcript, alone)
        )
        assert [word.text for word in found] == [word.text for word in expected]
        assert [word.start for word in found] == pytest.approx([word.start for word in expected], abs=CLOSE)
        assert [word.end for word in found] == pytest.approx([word.end for word in expected], abs=CLOSE)


@pytest.mark.parametrize("settings", [OPENAI, Settings()], ids=["as openai", "default"])
def test_words_start_where_they_were_spoken(settings: Settings, tiny_en: tuple, assets: Path) -> None:
    folder = assets / "speech" / "leopard"
    found = Transcriber(tiny_en[0], settings=replace(settings, word_timestamps=True))(folder / "quilter.wav")
    words = [word for segment in found.segments for word in segment.words]
    truth = json.loads((folder / "quilter.json").read_text())["words"]
    assert [plain(word.text) for word in words] == [plain(word["word"]) for word in truth]
    late = [word.start - other["start_sec"] for word, other in zip(words, truth, strict=True)]
    assert sum(map(abs, late)) / len(late) <= 0.15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hallucination_silence_threshold": 2.0}, "expected above 0, and word timestamps"),
        ({"hallucination_silence_threshold": 0.0, "word_timestamps": True}, "threshold of 0.0 s: expected above 0"),
        ({"clip_timestamps": [5.0, 3.0]}, "clip from 5.0 s to 3.0 s: expected"),
        ({"clip_timestamps": [-1.0]}, "clip from -1.0 s to inf s"),
        ({"clip_timestamps": [0.0, float("nan")]}, "clip from 0.0 s to nan s"),
    ],
)
def test_settings_that_make_no_sense(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**options)
