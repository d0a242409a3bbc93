"""A pytest plugin that puts our functions where openai-whisper's tests look for theirs.

Not for the process of other tests: after it, ``import whisper`` finds nothing but ours.
"""

import functools
import os
import random
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from whisper_normalizer.english import EnglishNumberNormalizer, EnglishSpellingNormalizer

from audio.align import dtw, median_filter
from audio.mel import SAMPLE_RATE, LogMel
from audio.settings import OPENAI
from audio.tokenizer import Tokenizer
from audio.transcribe import Transcriber, Transcript
from audio.weights import load_whisper
from audio.wer import normalizer
from core.data.audio import read_audio


def load_audio(path: str) -> np.ndarray:
    return read_audio(path).numpy()


def log_mel_spectrogram(audio: str | np.ndarray) -> torch.Tensor:
    return LogMel()(torch.from_numpy(load_audio(audio) if isinstance(audio, str) else audio))


class TheirTokenizer(Tokenizer):
    """Ours by their names, for one language and task."""

    sot_sequence = property(lambda self: Tokenizer.sot_sequence(self))
    all_language_codes = property(lambda self: self.languages)
    all_language_tokens = property(lambda self: tuple(self.language_tokens.values()))
    split_tokens_on_unicode = Tokenizer.split_on_unicode


def get_tokenizer(multilingual: bool, num_languages: int = 99) -> TheirTokenizer:
    return TheirTokenizer(multilingual, num_languages)


class TheirModel:
    """A Transcriber by their names."""

    def __init__(self, name: str) -> None:
        self.whisper, _ = load_whisper(os.environ["TINY_EN"])
        self.is_multilingual = self.whisper.config.multilingual
        self.num_languages = self.whisper.config.languages

    def to(self, device: str) -> "TheirModel":
        return self

    def transcribe(self, path: str, language: str, temperature: float, word_timestamps: bool) -> dict[str, Any]:
        settings = replace(OPENAI, language=language, word_timestamps=word_timestamps)
        return plain(Transcriber(self.whisper, settings=settings)(path))


def plain(transcript: Transcript) -> dict[str, Any]:
    segments = [
        {
            "text": segment.text,
            "tokens": list(segment.tokens),
            "words": [{"word": word.text, "start": word.start, "end": word.end} for word in segment.words],
        }
        for segment in transcript.segments
    ]
    return {
        "language": transcript.language,
        "text": "".join(segment.text for segment in transcript.segments),
        "segments": segments,
    }


NAMES: dict[str, dict[str, Any]] = {
    "whisper": {"available_models": lambda: ["tiny.en"], "load_model": TheirModel},
    "whisper.audio": {
        "SAMPLE_RATE": SAMPLE_RATE,
        "load_audio": load_audio,
        "log_mel_spectrogram": log_mel_spectrogram,
    },
    "whisper.timing": {"dtw_cpu": dtw, "dtw_cuda": dtw, "median_filter": median_filter},
    "whisper.tokenizer": {"get_tokenizer": get_tokenizer},
    "whisper.normalizers": {"EnglishTextNormalizer": functools.partial(normalizer, "en")},
    "whisper.normalizers.english": {
        "EnglishNumberNormalizer": EnglishNumberNormalizer,
        "EnglishSpellingNormalizer": EnglishSpellingNormalizer,
    },
}

for name, members in NAMES.items():
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__dict__.update(members)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires_cuda: compares a kernel on a GPU, of which we have none")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(42)
    np.random.seed(42)
    torch.manual_seed(42)
