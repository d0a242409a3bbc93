"""Transcripts equal openai-whisper's at temperature 0: text, times and what is skipped."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper as openai_whisper

from audio.decode import Search
from audio.fallback import Fallback
from audio.settings import OPENAI
from audio.transcribe import Settings, Transcriber, Transcript
from audio.wer import word_error_rate
from core.data.audio import read_audio
from core.errors import InputError

THOROUGH = pytest.mark.thorough
COLD = Fallback(temperatures=(0.0,))  # what is drawn at random can't equal what another program draws


def reference(model: openai_whisper.Whisper, audio: torch.Tensor, **options: object) -> dict:
    """openai-whisper's result, without the segments that it emptied."""
    result = openai_whisper.transcribe(model, audio, temperature=0.0, fp16=False, **options)
    result["segments"] = [segment for segment in result["segments"] if segment["text"]]
    return result


def assert_same(ours: Transcript, theirs: dict) -> None:
    assert ours.language == theirs["language"]
    assert ours.text == theirs["text"].strip()
    assert [list(segment.tokens) for segment in ours.segments] == [segment["tokens"] for segment in theirs["segments"]]
    for segment, expected in zip(ours.segments, theirs["segments"], strict=True):
        assert segment.text == expected["text"]
        assert segment.start == pytest.approx(expected["start"], abs=1e-9)
        assert segment.end == pytest.approx(expected["end"], abs=1e-9)
        assert segment.avg_logprob == pytest.approx(expected["avg_logprob"], abs=1e-3)
        assert segment.no_speech_prob == pytest.approx(expected["no_speech_prob"], abs=1e-3)
        assert segment.compression_ratio == pytest.approx(expected["compression_ratio"])


@pytest.mark.parametrize(
    ("seed", "condition"),
    [
        (0, True),
        (1, False),
        *(pytest.param(*case, marks=THOROUGH) for case in [(0, False), (1, True), (2, True), (2, False)]),
    ],
)
def test_random_models(seed: int, condition: bool, random_models: Callable) -> None:
    model, other = random_models(51_865, seed)
    audio = torch.randn(16_000 * 47 + 55) * 0.1
    settings = replace(OPENAI, language="fr", condition_on_previous_text=condition, fallback=COLD)
    ours = Transcriber(model, settings=settings)(audio)
    assert ours.segments
    assert_same(ours, reference(other, audio, language="fr", condition_on_previous_text=condition))


@pytest.mark.parametrize("vocab", [51_865, 51_866])
def test_language_is_detected_and_translated(vocab: int, random_models: Callable) -> None:
    model, other = random_models(vocab, 0)
    audio = torch.randn(16_000 * 5) * 0.1
    ours = Transcriber(model, settings=replace(OPENAI, task="translate", fallback=COLD))(audio)
    assert_same(ours, reference(other, audio, task="translate"))


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_windows_without_speech_are_skipped(threshold: float, random_models: Callable) -> None:
    model, other = random_models(51_865, 0)
    audio = torch.randn(16_000 * 3) * 0.1
    # the random model is unsure of its text, so only the first threshold decides
    fallback = Fallback(temperatures=(0.0,), no_speech_threshold=threshold)
    ours = Transcriber(model, settings=replace(OPENAI, language="en", fallback=fallback))(audio)
    theirs = reference(other, audio, language="en", no_speech_threshold=threshold)
    assert_same(ours, theirs)
    assert bool(ours.segments) == (threshold == 1.0)


PROMPTS = {
    "before the first window": {"initial_prompt": "Glossary: Zyntriqix, Digique Plus."},
    "before every window": {"initial_prompt": "Glossary: Zyntriqix.", "carry_initial_prompt": True},
    "alone": {"initial_prompt": "Hi.", "carry_initial_prompt": True, "condition_on_previous_text": False},
}


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=THOROUGH)])
def test_initial_prompt(name: str, seed: int, random_models: Callable) -> None:
    model, other = random_models(51_865, seed)
    audio = torch.randn(16_000 * 70) * 0.1
    ours = Transcriber(model, settings=replace(OPENAI, language="en", fallback=COLD, **PROMPTS[name]))(audio)
    assert ours.segments
    assert_same(ours, reference(other, audio, language="en", **PROMPTS[name]))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=THOROUGH)])
def test_beams(seed: int, random_models: Callable) -> None:
    model, other = random_models(51_865, seed)
    audio = torch.randn(16_000 * 40) * 0.1
    search = Search(beams=3, patience=1.5, length_penalty=0.5)
    ours = Transcriber(model, settings=replace(OPENAI, language="en", fallback=COLD, search=search))(audio)
    assert ours.segments
    assert_same(ours, reference(other, audio, language="en", beam_size=3, patience=1.5, length_penalty=0.5))


def test_windows_tell_how_far_it_is(random_models: Callable) -> None:
    model, _ = random_models(51_865, 0)
    job = Transcriber(model, settings=replace(OPENAI, language="en", fallback=COLD)).start(
        torch.randn(16_000 * 40) * 0.1
    )
    windows = list(job)
    positions = [window.position for window in windows]
    assert positions == sorted(set(positions))
    assert positions[-1] == job.duration == 40.0
    assert [segment for window in windows for segment in window.segments] == list(job.transcript.segments)
    assert list(job) == []


def test_no_audio_no_text(random_models: Callable) -> None:
    model, _ = random_models(51_864, 0)
    assert Transcriber(model)(torch.zeros(0)) == Transcript((), "en", 0.0)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(2, 100), "one-dimensional.*float32 of shape"),
        (torch.zeros(100, dtype=torch.int16), "floating-point.*not int16"),
        (np.array([0.0, np.nan]), "NaN"),
        (Path("no-such-file.wav"), "no-such-file.wav doesn't exist"),
    ],
)
def test_bad_audio(audio: object, message: str, random_models: Callable) -> None:
    model, _ = random_models(51_864, 0)
    with pytest.raises(InputError, match=message):
        Transcriber(model)(audio)


def test_bad_language_is_told_before_any_audio_is_read(random_models: Callable) -> None:
    model, _ = random_models(51_864, 0)
    with pytest.raises(InputError, match="English-only model can't transcribe german"):
        Transcriber(model, settings=Settings(language="de"))


def test_jfk(tiny_en: tuple, assets: Path) -> None:
    words = Transcriber(tiny_en[0])(assets / "speech" / "jfk.flac").text.lower().replace(",", "").rstrip(".")
    assert (
        words
        == "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
    )


@pytest.mark.parametrize(
    "name",
    [
        "jfk.flac",
        pytest.param("leopard/quilter.wav", marks=THOROUGH),
        pytest.param("nonspeech/empty.wav", marks=THOROUGH),
        "nonspeech/noise_1000ms.wav",
        pytest.param("nonspeech/silence_1000ms.wav", marks=THOROUGH),
    ],
)
def test_real_clips_equal_openais(name: str, tiny_en: tuple, assets: Path) -> None:
    audio = read_audio(assets / "speech" / name)
    assert_same(Transcriber(tiny_en[0], settings=replace(OPENAI, fallback=COLD))(audio), reference(tiny_en[1], audio))


# more of them, with words, in test_words.py
@pytest.mark.parametrize("name", [pytest.param("jfk.flac", marks=THOROUGH), "leopard/quilter.wav"])
def test_beam_5_equals_openais(name: str, tiny_en: tuple, assets: Path) -> None:
    audio = read_audio(assets / "speech" / name)
    ours = Transcriber(tiny_en[0], settings=replace(OPENAI, fallback=COLD, search=Search(beams=5)))(audio)
    assert_same(ours, reference(tiny_en[1], audio, beam_size=5))


def test_long_audio_equals_openais(tiny_en: tuple, assets: Path) -> None:
    clips = [read_audio(path) for path in sorted((assets / "speech" / "ljspeech").glob("*.wav"))]
    pause = torch.zeros(16_000 * 35)  # longer than a window: one is skipped, or invented, as the reference does
    audio = torch.cat([*clips[:8], pause, *clips[8:]])
    assert len(audio) > 16_000 * 120
    ours = Transcriber(tiny_en[0], settings=replace(OPENAI, fallback=COLD))(audio)
    assert len(ours.segments) > 5
    assert_same(ours, reference(tiny_en[1], audio))


@THOROUGH  # the default settings are measured on the same clips in test_batches, the default precision in test_fast
def test_word_error_rate(tiny_en: tuple, assets: Path) -> None:
    """openai-whisper, greedy: 4.71 %."""
    folder = assets / "speech" / "ljspeech"
    transcriber = Transcriber(tiny_en[0], settings=OPENAI)
    with (folder / "transcripts.tsv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) == 16
    heard = [transcriber(folder / f"{clip}.wav").text for clip, _ in rows]
    assert word_error_rate([text for _, text in rows], heard) <= 0.048
