"""Batched = sequential = single: windows of speech give the same text, times and words whatever they are heard with."""

import csv
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audio.decode import Search
from audio.fallback import Fallback
from audio.fast import fast_whisper
from audio.settings import OPENAI, Settings
from audio.transcribe import Transcriber, Transcript
from audio.weights import load_whisper
from audio.wer import word_error_rate
from core.data.audio import Recording, read_audio
from core.errors import InputError


def assert_same(ours: Transcript, other: Transcript) -> None:
    assert ours.text == other.text
    assert (ours.language, ours.duration) == (other.language, other.duration)
    for a, b in zip(ours.segments, other.segments, strict=True):
        assert (a.start, a.end, a.text, a.tokens, a.temperature) == (b.start, b.end, b.text, b.tokens, b.temperature)
        assert a.avg_logprob == pytest.approx(b.avg_logprob, abs=1e-3)
        for word, expected in zip(a.words, b.words, strict=True):
            assert word.text == expected.text
            assert word.start == pytest.approx(expected.start, abs=0.021)  # a frame, where two are as likely
            assert word.end == pytest.approx(expected.end, abs=0.021)


@pytest.fixture(scope="module")
def clips(assets: Path) -> list[Path]:
    """Short ones, and one in which nobody speaks."""
    names = [f"ljspeech/LJ001-00{n}.wav" for n in ("02", "04", "06", "09")]
    return [assets / "speech" / name for name in [*names[:2], "nonspeech/noise_1000ms.wav", *names[2:], "jfk.flac"]]


SETTINGS = {
    "greedy": Settings(),
    "words": Settings(word_timestamps=True),
    "beams": Settings(search=Search(beams=2), fallback=Fallback(temperatures=(0.0,))),
    "drawn": Settings(fallback=Fallback(temperatures=(0.5,)), search=Search(best_of=2)),
    "as openai": replace(OPENAI, fallback=Fallback(temperatures=(0.0,))),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_folder_of_clips(name: str, tiny_en: tuple, clips: list[Path]) -> None:
    paths = clips if name == "greedy" else clips[:3]

    @cache
    def alone(path: Path) -> Transcript:
        return Transcriber(tiny_en[0], settings=replace(SETTINGS[name], batch=1))(path)

    transcriber = Transcriber(tiny_en[0], settings=replace(SETTINGS[name], batch=4))
    found = list(transcriber.each(paths))
    assert [job.audio for job in found] == paths
    for job in found:
        assert job.error is None
        assert_same(job.transcript, alone(job.audio))


def test_a_folder_of_clips_as_fast_as_can_be(assets: Path, clips: list[Path]) -> None:
    model = fast_whisper(load_whisper(assets / "weights" / "whisper-tiny.en")[0])
    together, alone = (Transcriber(model, settings=Settings(batch=batch)) for batch in (8, 1))
    assert [job.transcript.text for job in together.each(clips)] == [alone(path).text for path in clips]


def test_one_recording(tiny_en: tuple, clips: list[Path]) -> None:
    audio = torch.cat([part for path in clips[:4] for part in (read_audio(path), torch.zeros(16_000 * 4))])
    settings = Settings(word_timestamps=True)
    jobs = [Transcriber(tiny_en[0], settings=replace(settings, batch=batch)).start(audio) for batch in (1, 4)]
    alone, together = (job.finish() for job in jobs)
    assert len(alone.segments) >= 3
    assert_same(together, alone)
    starts = [word.start for segment in together.segments for word in segment.words]
    assert starts == sorted(starts)
    without = Transcriber(tiny_en[0])(audio)
    assert without.text == together.text  # whether or not word times are asked for


def test_word_error_rate(tiny_en: tuple, assets: Path) -> None:
    """openai-whisper, greedy: 4.71 %. Ours hears silence after a clip, where theirs hears zeros in the spectrogram."""
    folder = assets / "speech" / "ljspeech"
    with (folder / "transcripts.tsv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    jobs = Transcriber(tiny_en[0]).each(folder / f"{clip}.wav" for clip, _ in rows)
    heard = [job.transcript.text for job in jobs]
    assert word_error_rate([text for _, text in rows], heard) <= 0.04


@pytest.mark.parametrize("name", ["empty", "noise_1000ms", "silence_1000ms"])
def test_nothing_is_heard_where_nobody_speaks(name: str, tiny_en: tuple, assets: Path) -> None:
    path = assets / "speech" / "nonspeech" / f"{name}.wav"
    assert Transcriber(tiny_en[0])(path).segments == ()


def test_positions_and_durations(tiny_en: tuple, assets: Path) -> None:
    job = Transcriber(tiny_en[0]).start(assets / "speech" / "jfk.flac")
    assert (job.duration, job.position) == (11.0, 0.0)
    windows = list(job)
    assert windows[-1].position == job.position <= 11.0
    assert job.done
    assert [segment for window in windows for segment in window.segments] == list(job.transcript.segments)
    assert list(job) == []


def test_languages(random_models: Callable, assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for a recording, or one for each window."""
    speech = read_audio(assets / "speech" / "jfk.flac")
    audio = torch.cat([speech, torch.zeros(16_000 * 4), speech, torch.zeros(16_000 * 4), speech])
    settings = Settings(fallback=Fallback(temperatures=(0.0,), no_speech_threshold=None))
    codes = iter(["fr", "de", "ja", "es"])

    def heard(settings: Settings) -> list[Transcript]:
        transcriber = Transcriber(random_models(51_865, 0)[0], settings=settings)
        monkeypatch.setattr(transcriber.listener, "detect_language", lambda some: [next(codes) for _ in some])
        return [job.transcript for job in transcriber.each([audio])]

    (one,) = heard(settings)
    assert one.language == "fr"
    assert {segment.language for segment in one.segments} == {None}
    (each,) = heard(replace(settings, multilingual=True))
    assert [segment.language for segment in each.segments if segment.language] == sorted(
        (segment.language for segment in each.segments if segment.language), key=["de", "ja", "es"].index
    )
    assert {segment.language for segment in each.segments} == {"de", "ja", "es"}


def test_no_language_where_nobody_speaks(random_models: Callable) -> None:
    assert Transcriber(random_models(51_865, 0)[0])(torch.zeros(16_000)) == Transcript((), None, 1.0)


def test_a_damaged_recording_does_not_stop_the_others(tiny_en: tuple, clips: list[Path], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 30)
    soundfile.write(tmp_path / "whole.flac", noise, 16_000)
    data = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    transcriber = Transcriber(tiny_en[0])
    found = list(transcriber.each([clips[0], Recording(tmp_path / "cut.flac"), clips[1]]))
    assert [type(job.error) for job in found] == [type(None), InputError, type(None)]
    assert all(found[n].transcript.text for n in (0, 2))
    with pytest.raises(InputError, match="damaged or cut short"):
        transcriber(tmp_path / "cut.flac")
