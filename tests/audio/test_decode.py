"""Decoding one window equals openai-whisper's: same tokens, same probabilities."""

import random
from collections.abc import Callable

import pytest
import torch
from whisper.decoding import ApplyTimestampRules, DecodingOptions, DecodingTask
from whisper.decoding import decode as reference_decode
from whisper.tokenizer import get_tokenizer
from whisper.utils import compression_ratio as reference_ratio

from audio.decode import Decoder, TimestampRules, compression_ratio, whisper_rules
from audio.tokenizer import Tokenizer
from core.errors import InputError

VOCABULARIES = [51_864, 51_865, 51_866]


def histories(tokenizer: Tokenizer) -> list[list[int]]:
    """Beginnings of transcripts: text and timestamps in any order, also such as the rules would not have allowed."""
    dice = random.Random(0)
    begin = tokenizer.timestamp_begin
    made = [[], [begin], [begin, 11], [begin, 11, begin + 5], [begin, 11, begin + 5, begin + 5], [11], [11, 12]]
    for _ in range(60):
        made.append(
            [
                begin + dice.randrange(3) if dice.random() < 0.5 else dice.randrange(1000)
                for _ in range(dice.randrange(1, 6))
            ]
        )
    return made


@pytest.mark.parametrize("boost", [0.0, 6.0, -6.0])
def test_timestamp_rules_equal_openais(boost: float) -> None:
    tokenizer = Tokenizer()
    ours, reference = TimestampRules(tokenizer), ApplyTimestampRules(get_tokenizer(True), 0, 50)
    by_length: dict[int, list[list[int]]] = {}
    for history in histories(tokenizer):
        # openai-whisper looks at the last timestamp, we at the highest: the same unless time runs backwards
        stamps = [token for token in history if token >= tokenizer.timestamp_begin]
        if stamps == sorted(stamps):
            by_length.setdefault(len(history), []).append(history)
    assert sum(map(len, by_length.values())) > 30
    for rows in by_length.values():
        tokens = torch.tensor(rows, dtype=torch.long).reshape(len(rows), -1)
        logits = 3 * torch.randn(len(rows), len(tokenizer))
        logits[:, tokenizer.timestamp_begin :] += boost  # so that timestamps win, lose, or do either
        expected = logits.clone()
        ours(logits, tokens)
        reference.apply(expected, tokens)
        assert torch.equal(logits, expected)


@pytest.mark.parametrize("multilingual", [False, True])
def test_all_rules_equal_openais(multilingual: bool, random_models: Callable) -> None:
    _, model = random_models(51_865 if multilingual else 51_864, 0)
    task = DecodingTask(model, DecodingOptions(language="en", fp16=False))
    tokenizer = Tokenizer(multilingual)
    for history in [[], [tokenizer.timestamp_begin], [tokenizer.timestamp_begin, 400]]:
        logits = torch.randn(1, len(tokenizer))
        expected = logits.clone()
        for rule in whisper_rules(tokenizer):
            rule(logits, torch.tensor([history], dtype=torch.long))
        for reference in task.logit_filters:
            reference.apply(expected, torch.tensor([[*task.initial_tokens, *history]]))
        assert torch.equal(logits, expected)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_random_models_equal_openais(vocab: int, seed: int, random_models: Callable) -> None:
    model, reference = random_models(vocab, seed)
    mel = torch.randn(3, 80, 3000)
    language = "en" if vocab == 51_864 else "de"
    decoder = Decoder(model, Tokenizer.for_vocab(vocab))
    for prompt in [[], list(range(300, 320)), list(range(300, 400))]:
        expected = reference_decode(
            reference, mel, DecodingOptions(language=language, prompt=prompt or None, fp16=False)
        )
        found = decoder(decoder.encode(mel), language, prompt=prompt)
        assert [one.tokens for one in found] == [one.tokens for one in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.text == theirs.text
            assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-4)
            assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, rel=1e-3, abs=1e-9)
            assert ours.compression_ratio == pytest.approx(theirs.compression_ratio)


@pytest.mark.parametrize("vocab", VOCABULARIES[1:])
def test_language_detection_equals_openais(vocab: int, random_models: Callable) -> None:
    model, reference = random_models(vocab, 0)
    mel = torch.randn(2, 80, 3000)
    decoder = Decoder(model, Tokenizer.for_vocab(vocab))
    _, expected = reference.detect_language(mel, get_tokenizer(True, num_languages=vocab - 51_766))
    for ours, theirs in zip(decoder.detect_language(decoder.encode(mel)), expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert next(iter(ours)) == max(theirs, key=theirs.get)
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-7)


def test_english_only_hears_english(random_models: Callable) -> None:
    model, _ = random_models(51_864, 0)
    assert Decoder(model, Tokenizer(False)).detect_language(torch.zeros(2, 1500, 64)) == [{"en": 1.0}] * 2


def test_a_batch_changes_nothing(random_models: Callable) -> None:
    model, _ = random_models(51_865, 1)
    decoder = Decoder(model, Tokenizer())
    audio = decoder.encode(torch.randn(3, 80, 3000))
    together = decoder(audio, "en")
    assert [decoder(audio[i : i + 1], "en")[0].tokens for i in range(3)] == [one.tokens for one in together]


def test_unknown_language(random_models: Callable) -> None:
    model, _ = random_models(51_865, 0)
    with pytest.raises(InputError, match="unknown language 'klingon'"):
        Decoder(model, Tokenizer())(torch.zeros(1, 1500, 64), "klingon")


def test_compression_ratio() -> None:
    for text in ["", "a", "so " * 100, "ünïcödé 日本"]:
        assert compression_ratio(text) == reference_ratio(text)
