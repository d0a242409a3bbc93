"""Decoding one window equals openai-whisper's: same tokens, same probabilities."""

import copy
import itertools
import random
from collections.abc import Callable

import pytest
import torch
from whisper.decoding import ApplyTimestampRules, DecodingOptions, DecodingTask
from whisper.decoding import decode as reference_decode
from whisper.tokenizer import get_tokenizer
from whisper.utils import compression_ratio as reference_ratio

from audio.decode import Decoder, Search, compression_ratio
from audio.draft import Draft
from audio.fast import fast_whisper
from audio.pair import fast_pair
from audio.tokenizer import Tokenizer
from audio.writing import TimestampRules, Writing, whisper_rules
from core.errors import InputError

VOCABULARIES = [51_864, 51_865, 51_866]
THOROUGH = pytest.mark.thorough


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


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=THOROUGH)])
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


def assert_same(ours: list, theirs: list) -> None:
    assert [one.tokens for one in ours] == [one.tokens for one in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.text == other.text
        assert mine.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)
        assert mine.no_speech_prob == pytest.approx(other.no_speech_prob, rel=1e-3, abs=1e-9)


ASKED = [
    ({"without_timestamps": True}, Writing(timestamps=False)),
    ({"suppress_tokens": "-1,400,13,7000"}, Writing(suppress_tokens=(-1, 400, 13, 7000))),
    ({"suppress_tokens": "400,13"}, Writing(suppress_tokens=(400, 13))),
    ({"suppress_blank": False}, Writing(suppress_blank=False)),
    ({"max_initial_timestamp": 0.1}, Writing(latest_start=0.1)),
    ({"max_initial_timestamp": None}, Writing(latest_start=None)),
    ({"sample_len": 7}, Writing(max_new_tokens=7)),
    ({"prefix": "On and on"}, Writing()),
    ({"prefix": "On and on, on and on, on and on and on", "sample_len": 32}, Writing(max_new_tokens=32)),
    ({"prefix": "On and on", "without_timestamps": True}, Writing(timestamps=False)),
]
WIDE = {"without_timestamps", "sample_len"}  # where one of them is said, several beams are tried by default


def asked_of_beams() -> list:
    """All of it with one beam and with three; some of the latter, which are the same rules, when thorough."""
    cases = []
    for options, writing in ASKED:
        less = () if WIDE & options.keys() else THOROUGH
        cases.append(pytest.param(options, writing, 1, id=f"{options}-1"))
        cases.append(pytest.param(options, writing, 3, id=f"{options}-3", marks=less))
    return cases


@pytest.mark.parametrize(("options", "writing", "beams"), asked_of_beams())
def test_what_may_be_written_equals_openai(
    options: dict, writing: Writing, beams: int, random_models: Callable
) -> None:
    model, reference = random_models(51_865, 1)
    tokenizer, mel = Tokenizer(), torch.randn(2, 80, 3000)
    decoder = Decoder(model, tokenizer, writing=writing)
    width = {} if beams == 1 else {"beam_size": beams}
    prompt = list(range(300, 400))
    asked = DecodingOptions(language="de", prompt=prompt, fp16=False, **options, **width)
    expected = [reference_decode(reference, one, asked) for one in mel]  # its beams can't do batches
    prefix = tokenizer.encode(" " + options["prefix"]) if "prefix" in options else ()
    search = Search(beams=beams)
    assert_same(decoder(decoder.encode(mel), "de", prompt=prompt, search=search, prefix=prefix), expected)


class FedError(Exception):
    """Carries what the model was fed, and ends the decoding."""


def fed(decoder: Decoder, **options: list[int]) -> list[int]:
    """What the model is first shown; what it would write is not waited for."""

    def states(tokens: torch.Tensor, ctx: object) -> None:
        raise FedError(tokens[0].tolist())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder.model.decoder, "states", states)
        with pytest.raises(FedError) as caught:
            decoder(torch.zeros(1, 1500, 64), "en", **options)
    return caught.value.args[0]


@pytest.mark.parametrize("said", [[], [300, 301, 302]])
@pytest.mark.parametrize("hotwords", ["Sensorium", " Sensorium, Quilter ", "", None, "word " * 60])
@pytest.mark.parametrize("timestamps", [True, False])
def test_hotwords_are_shown_as_faster_whisper_does(
    said: list[int], hotwords: str | None, timestamps: bool, random_models: Callable
) -> None:
    from faster_whisper.transcribe import WhisperModel

    model, _ = random_models(51_865, 1)
    tokenizer = Tokenizer()

    class Theirs:  # their tokenizer needs a file of the Hub: with our words, its code is all the same
        sot_prev, no_timestamps, timestamp_begin = (
            tokenizer.sot_prev,
            tokenizer.no_timestamps,
            tokenizer.timestamp_begin,
        )
        sot_sequence = tokenizer.sot_sequence("en")
        encode = staticmethod(tokenizer.encode)

    class Model:
        max_length = model.config.text_context

    expected = WhisperModel.get_prompt(Model(), Theirs(), said, not timestamps, hotwords=hotwords)
    decoder = Decoder(model, tokenizer, writing=Writing(timestamps=timestamps, hotwords=hotwords))
    if hotwords and len(hotwords) > 100 and said:  # theirs has no bound for both together
        expected = [token for token in expected if token not in said]
    assert fed(decoder, prompt=said) == expected
    prefix = tokenizer.encode(" We begin")
    assert fed(decoder, prompt=said, prefix=prefix) == [
        *fed(Decoder(model, tokenizer, writing=Writing(timestamps=timestamps)), prompt=said),
        *prefix,
    ]


def test_guards_hold_in_a_window(random_models: Callable) -> None:
    model, _ = random_models(51_865, 1)
    audio = Decoder(model, Tokenizer()).encode(torch.randn(2, 80, 3000))
    for search in [Search(), Search(beams=3), Search(temperature=0.5, best_of=2)]:
        free = Decoder(model, Tokenizer())(audio, search=search)
        guarded = Decoder(model, Tokenizer(), writing=Writing(no_repeat_ngram_size=2, repetition_penalty=1.2))
        for plain, row in zip(free, guarded(audio, search=search), strict=True):
            pairs = list(itertools.pairwise(row.tokens))
            assert len(set(pairs)) == len(pairs)
            assert row.tokens != plain.tokens


def test_each_token_has_its_probability(random_models: Callable) -> None:
    model, _ = random_models(51_865, 1)
    decoder = Decoder(model, Tokenizer(), rules=[])
    audio = decoder.encode(torch.randn(2, 80, 3000))
    for search in [Search(), Search(beams=3)]:
        for row, result in enumerate(decoder(audio, search=search)):
            whole = torch.tensor([[*Tokenizer().sot_sequence("en"), *result.tokens]])
            with torch.inference_mode():
                found = model.decode(whole, audio[row : row + 1]).x[0].log_softmax(-1)
            expected = [found[n + 2, token].item() for n, token in enumerate(result.tokens)]
            assert list(result.logprobs) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("seed", "rows"), [(0, 1), (1, 3), pytest.param(0, 3, marks=THOROUGH), pytest.param(1, 1, marks=THOROUGH)]
)
def test_a_draft_changes_nothing(seed: int, rows: int, random_models: Callable) -> None:
    model, _ = random_models(51_865, seed)
    mel = torch.randn(rows, 80, 3000)
    writing = Writing(max_new_tokens=16)
    plain = Decoder(model, Tokenizer(), writing=writing)
    other, _ = random_models(51_865, seed + 5)
    # a draft that knows nothing, one that is often right, and the model itself
    close = copy.deepcopy(model)
    for parameter in close.decoder.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    for draft, one_encoder in [(other, False), (close, True), (model, True)]:
        decoder = Decoder(model, Tokenizer(), writing=writing, draft=Draft(draft, ahead=3))
        assert decoder.one_encoder == one_encoder
        audio = decoder.encode(mel)
        for prompt in [[], list(range(300, 320))]:
            expected = plain(plain.encode(mel), prompt=prompt)
            found = decoder(audio, prompt=prompt)
            assert_same(found, expected)
            for mine, theirs in zip(found, expected, strict=True):
                assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
        assert decoder.detect_language(audio)[0] == pytest.approx(plain.detect_language(plain.encode(mel))[0])


def test_drawn_with_a_draft_a_window_is_the_same_in_any_company(random_models: Callable) -> None:
    model, _ = random_models(51_865, 1)
    writing, draft = Writing(max_new_tokens=12), Draft(random_models(51_865, 6)[0])
    decoder = Decoder(model, Tokenizer(), writing=writing, draft=draft)
    audio = decoder.encode(torch.randn(3, 80, 3000))
    search = Search(temperature=0.7, best_of=2)
    together = decoder(audio, search=search)
    alone = [decoder(audio[row : row + 1], search=search, names=[row])[0] for row in range(3)]
    assert [one.tokens for one in alone] == [one.tokens for one in together]


def test_what_cannot_be_decoded(random_models: Callable) -> None:
    model, _ = random_models(51_865, 0)
    with pytest.raises(InputError, match="its vocab is 51864, the model's 51865"):
        Decoder(model, Tokenizer(), draft=Draft(random_models(51_864, 0)[0]))
    with pytest.raises(InputError, match="can't help to keep 5 beams"):
        Decoder(model, Tokenizer(), draft=Draft(model))(torch.zeros(1, 1500, 64), search=Search(beams=5))
    with pytest.raises(InputError, match="a prefix of 90 tokens leaves no room"):
        Decoder(model, Tokenizer())(torch.zeros(1, 1500, 64), prefix=[400] * 90)
    with pytest.raises(InputError, match="token 60000 to be suppressed"):
        Decoder(model, Tokenizer(), writing=Writing(suppress_tokens=(-1, 60_000)))
    for wrong in [{"repetition_penalty": 0}, {"no_repeat_ngram_size": -1}, {"max_new_tokens": 0}, {"latest_start": -1}]:
        with pytest.raises(InputError, match="expected"):
            Writing(**wrong)
    with pytest.raises(InputError, match="0 drafted tokens"):
        Draft(model, ahead=0)


def test_a_fast_pair_writes_what_its_model_writes(random_models: Callable) -> None:
    model, _ = random_models(51_865, 1)
    mel, writing = torch.randn(1, 80, 3000), Writing(max_new_tokens=16)
    alone = Decoder(fast_whisper(copy.deepcopy(model)), Tokenizer(), writing=writing)
    expected = alone(alone.encode(mel))
    other, _ = random_models(51_865, 6)
    for small, one_encoder in [(other, False), (model, True)]:
        fast, draft = fast_pair(copy.deepcopy(model), copy.deepcopy(small))
        decoder = Decoder(fast, Tokenizer(), writing=writing, draft=draft)
        assert decoder.one_encoder == one_encoder
        assert [one.tokens for one in decoder(decoder.encode(mel))] == [one.tokens for one in expected]
    with pytest.raises(InputError, match="its vocab is 51864, the model's 51865"):
        fast_pair(copy.deepcopy(model), copy.deepcopy(random_models(51_864, 0)[0]))
