"""Which windows are heard, which segments stay, and where the next window begins: equal to openai-whisper's, for
anything that a model may write. No model runs: both sides are told the same random texts and word times.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import whisper as openai_whisper
from test_words import assert_same_words
from whisper import timing as openai_timing

from audio.align import Aligner, Timing
from audio.decode import Decoder, DecodingResult
from audio.fallback import Fallback
from audio.settings import OPENAI
from audio.tokenizer import Tokenizer
from audio.transcribe import Transcriber

TOKENIZER = Tokenizer(multilingual=False)
WORDS = [TOKENIZER.encode(text)[0] for text in (" the", " a", " house", ".", ",", " -", "ing", " (", "?", " it")]


def heard(mel: torch.Tensor) -> dict[str, Any]:
    """What is made up for a window (mels, frames): the loudest bands of its first frames are its name."""
    dice = random.Random(str(mel[:, :6].argmax(dim=0).tolist()))
    times = sorted(dice.randrange(1500) for _ in range(2 * dice.randrange(1, 5)))
    if dice.random() < 0.5:
        times = [time // 4 for time in times]  # a long silence at the end
    tokens: list[int] = []
    for start, end in zip(times[::2], times[1::2], strict=True):
        text = [dice.choice(WORDS) for _ in range(dice.randrange(8))]
        tokens += [TOKENIZER.timestamp_begin + start, *text, TOKENIZER.timestamp_begin + end]
    if dice.random() < 0.5:  # a segment without an end
        tokens += [TOKENIZER.timestamp_begin + times[-1], dice.choice(WORDS)]
    if dice.random() < 0.2:
        tokens = [TOKENIZER.timestamp_begin, *(dice.choice(WORDS) for _ in range(5))]
    return {
        "tokens": tokens,
        "text": "",
        "language": "en",
        "avg_logprob": dice.choice([-0.3, -0.3, -1.5]),
        "no_speech_prob": dice.choice([0.1, 0.1, 0.1, 0.9]),
        "compression_ratio": 1.0,
        "temperature": 0.0,
    }


def spoken(text: list[int], frames: int) -> list[Timing]:
    """Made up times of the words of a text."""
    dice = random.Random(str(text))
    end = dice.random() * frames / 200
    timings = []
    for token in text:
        start = end + dice.choice([0.0, 0.0, 0.0, 3.0])
        end = start + dice.choice([0.0, 0.04, 0.2, 0.24, 0.3, 0.5, 2.5])
        probability = dice.choice([0.01, 0.05, 0.5, 0.9])
        timings.append(Timing(TOKENIZER.decode([token]), (token,), round(start, 2), round(end, 2), probability))
    return timings


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides are told what to hear."""

    def decode(decoder: Decoder, audio: torch.Tensor, *_: object, **__: object) -> list[DecodingResult]:
        return [DecodingResult(**heard(mel)) for mel in audio]

    def align(aligner: Aligner, audio: object, texts: list[list[int]], frames: list[int], *_: object) -> object:
        return [spoken(list(text), size) for text, size in zip(texts, frames, strict=True)]

    def find_alignment(model: object, tokenizer: object, text: list[int], mel: object, frames: int) -> object:
        return [
            openai_timing.WordTiming(word, list(tokens), *rest) for word, tokens, *rest in spoken(list(text), frames)
        ]

    monkeypatch.setattr(Decoder, "encode", lambda decoder, mel, frames=None: mel)
    monkeypatch.setattr(Decoder, "__call__", decode)
    monkeypatch.setattr(Aligner, "__call__", align)
    monkeypatch.setattr(openai_timing, "find_alignment", find_alignment)


def theirs(audio: torch.Tensor, **options: object) -> dict:
    """openai-whisper's result, without the segments that it emptied."""

    def decode(mel: torch.Tensor, options: object) -> openai_whisper.DecodingResult:
        return openai_whisper.DecodingResult(audio_features=mel, **heard(mel))

    model = SimpleNamespace(
        device=torch.device("cpu"),
        dims=SimpleNamespace(n_mels=80, n_audio_ctx=1500, n_text_ctx=448),
        is_multilingual=False,
        num_languages=99,
        decode=decode,
    )
    result = openai_whisper.transcribe(model, audio, temperature=(0.0,), fp16=False, **options)
    result["segments"] = [segment for segment in result["segments"] if segment["text"]]
    return result


CASES: dict[str, dict[str, Any]] = {
    "words": {"word_timestamps": True},
    "clips": {"clip_timestamps": [2.5, 40, 41, 41.5, 50.004]},
    "clips out of order": {"clip_timestamps": [50, 60, 5, 20], "word_timestamps": True},
    "silence": {"word_timestamps": True, "hallucination_silence_threshold": 2.0},
    "little silence": {"word_timestamps": True, "hallucination_silence_threshold": 0.3},
    "both": {"word_timestamps": True, "hallucination_silence_threshold": 1.0, "clip_timestamps": [3, 33, 45, 69]},
}


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(3, 8))])
@pytest.mark.parametrize("case", CASES)
def test_windows_equal_openais(case: str, seed: int, random_models: Callable) -> None:
    torch.manual_seed(seed)
    audio = torch.randn(16_000 * 70 + 1234 * seed) * 0.1
    settings = replace(OPENAI, fallback=Fallback(temperatures=(0.0,)), **CASES[case])
    ours = Transcriber(random_models(51_864, 0)[0], settings=settings)(audio)
    expected = theirs(audio, **CASES[case])
    for segment in expected["segments"]:
        segment.setdefault("words", [])
    assert_same_words(ours, expected, close=1e-9)


def test_clips_beyond_the_end_are_silent(random_models: Callable) -> None:
    model, _ = random_models(51_864, 0)
    job = Transcriber(model, settings=replace(OPENAI, clip_timestamps=[3, 8])).start(torch.randn(16_000 * 2))
    assert list(job) == []
