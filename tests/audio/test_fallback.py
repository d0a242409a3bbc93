"""Decoding again at higher temperatures: the rules are openai-whisper's, and a window's draws are its own."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
import whisper as openai_whisper
from whisper.decoding import DecodingResult as TheirResult

from audio.decode import Decoder, DecodingResult, Search
from audio.fallback import Fallback
from audio.tokenizer import Tokenizer
from core.errors import InputError


@pytest.mark.parametrize("thresholds", [(2.4, -1.0, 0.6), (None, -1.0, 0.6), (2.4, None, 0.6), (2.4, -1.0, None)])
@pytest.mark.parametrize("found", product([1.0, 3.0], [-2.0, -1.0, -0.5], [0.1, 0.6, 0.9]))
def test_what_is_decoded_again_equals_openais(thresholds: tuple, found: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count how often openai-whisper decodes a window whose results are all alike."""
    names = "compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"
    ratio, logprob, silence = found
    result = TheirResult(
        audio_features=torch.zeros(1),
        language="en",
        tokens=[50_363, 11, 50_400],
        text="a",
        avg_logprob=logprob,
        no_speech_prob=silence,
        compression_ratio=ratio,
    )
    model = openai_whisper.Whisper(openai_whisper.model.ModelDimensions(80, 1500, 8, 1, 1, 51_864, 448, 8, 1, 1))
    calls = []
    monkeypatch.setattr(type(model), "decode", lambda *given: calls.append(given) or result)
    options = dict(zip(names, thresholds, strict=True))
    theirs = openai_whisper.transcribe(model, torch.zeros(16_000), fp16=False, temperature=(0.0, 1.0), **options)
    fallback = Fallback((0.0, 1.0), **options)
    ours = DecodingResult([], "", "en", logprob, silence, ratio)
    assert fallback.bad(ours) == (len(calls) == 2)
    assert fallback.silent(ours) == (not theirs["segments"])


def test_draws_are_a_windows_own(random_models: Callable) -> None:
    model, _ = random_models(51_865, 1)
    decoder = Decoder(model, Tokenizer())
    audio = decoder.encode(torch.randn(3, 80, 3000))
    search = Search(temperature=0.7, best_of=2)
    together = decoder(audio, "en", search=search, names=[7, 8, 9])
    for row in (2, 0, 1):
        alone = decoder(audio[row : row + 1], "en", search=search, names=[7 + row])[0]
        assert alone.tokens == together[row].tokens
        assert alone.avg_logprob == pytest.approx(together[row].avg_logprob, abs=1e-4)
        assert alone.temperature == 0.7
    assert decoder(audio, "en", search=Search(temperature=0.7, seed=1))[0].tokens != together[0].tokens


def test_the_best_of_several_is_no_worse(random_models: Callable) -> None:
    model, _ = random_models(51_865, 0)
    decoder = Decoder(model, Tokenizer())
    audio = decoder.encode(torch.randn(1, 80, 3000))
    one, several = (
        decoder(audio, "en", search=Search(temperature=1.0, best_of=n, length_penalty=0.0))[0].avg_logprob
        for n in (1, 8)
    )
    assert several >= one


def test_only_bad_windows_are_decoded_again(random_models: Callable) -> None:
    model, _ = random_models(51_865, 0)
    decoder = Decoder(model, Tokenizer())
    audio = decoder.encode(torch.randn(4, 80, 3000))
    cold = decoder(audio, "en")
    middle = sum(sorted(found.avg_logprob for found in cold)[1:3]) / 2
    fallback = Fallback((0.0, 0.5), None, middle, None)
    found = fallback(decoder, audio, "en")
    assert [one.temperature for one in found] == [0.5 if one.avg_logprob < middle else 0.0 for one in cold]
    alone = [fallback(decoder, audio[n : n + 1], "en", names=[n])[0] for n in range(4)]
    assert [one.tokens for one in alone] == [one.tokens for one in found]


@pytest.mark.parametrize("wrong", [(), (-0.1,)])
def test_bad_temperatures(wrong: tuple) -> None:
    with pytest.raises(InputError, match="temperatures"):
        Fallback(temperatures=wrong)


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"best_of": 0}, {"temperature": -1.0}])
def test_bad_search(wrong: dict) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        Search(**wrong)
