"""The tokenizers equal openai-whisper's."""

import random

import pytest
from whisper.tokenizer import LANGUAGES as REFERENCE_LANGUAGES
from whisper.tokenizer import TO_LANGUAGE_CODE, get_tokenizer

from audio.languages import LANGUAGES, language_code
from audio.tokenizer import Tokenizer
from core.errors import InputError

KINDS = [(False, 99), (True, 99), (True, 100)]
TEXTS = [
    "",
    " ",
    "Hello, world!",
    " And so my fellow Americans, ask not what your country can do for you.",
    "It's 1,234.56 € — isn't it?\n\n  two  spaces\tand a tab ",
    "Größe naïve Ærøskøbing ŁÓDŹ İstanbul",
    "Привет, как дела? Ещё раз!",
    "日本語のテキストと漢字。 これは、テストです！",
    "你好,世界 今天天气真好",
    "한국어 텍스트입니다. 안녕하세요",
    "สวัสดีชาวโลก ภาษาไทย",
    "नमस्ते दुनिया क्षत्रिय",
    "مرحبا بالعالم שלום עולם",
    "👩‍👩‍👧‍👦 emoji 🇩🇪 ♪♪ (music) [laughs] — \ufffd",
]


@pytest.fixture(params=KINDS, ids=["english", "99 languages", "100 languages"])
def pair(request: pytest.FixtureRequest) -> tuple:
    multilingual, languages = request.param
    return Tokenizer(multilingual, languages), get_tokenizer(multilingual, num_languages=languages)


def test_vocabulary(pair: tuple) -> None:
    ours, reference = pair
    assert len(ours) == reference.encoding.n_vocab
    assert ours.encoding._mergeable_ranks == reference.encoding._mergeable_ranks
    assert ours.encoding._special_tokens == reference.encoding._special_tokens


def test_special_tokens(pair: tuple) -> None:
    ours, reference = pair
    for name in ["eot", "sot", "sot_prev", "sot_lm", "no_speech", "no_timestamps", "timestamp_begin"]:
        assert getattr(ours, name) == getattr(reference, name), name
    assert ours.special("transcribe") == reference.transcribe
    assert ours.special("translate") == reference.translate
    assert ours.non_speech_tokens == reference.non_speech_tokens
    assert sorted(ours.language_tokens.values()) == sorted(reference.all_language_tokens)


@pytest.mark.parametrize("text", TEXTS)
def test_encode_and_decode(pair: tuple, text: str) -> None:
    ours, reference = pair
    tokens = ours.encode(text)
    assert tokens == reference.encode(text)
    assert ours.decode(tokens) == text
    stamped = [ours.timestamp_begin, *tokens, ours.timestamp_begin + 54, ours.eot]
    assert ours.decode(stamped) == reference.decode(stamped)
    assert (
        ours.decode_with_timestamps(stamped)
        == reference.decode_with_timestamps(stamped)
        == f"<|0.00|>{text}<|1.08|><|endoftext|>"
    )


def test_decoding_of_any_tokens(pair: tuple) -> None:
    ours, reference = pair
    dice = random.Random(0)
    for _ in range(300):
        tokens = [dice.randrange(len(ours)) for _ in range(dice.randrange(30))]
        assert ours.decode(tokens) == reference.decode(tokens)
        assert ours.split_on_unicode(tokens) == reference.split_tokens_on_unicode(tokens)
        assert ours.split_on_spaces(tokens) == reference.split_tokens_on_spaces(tokens)


@pytest.mark.parametrize("language", ["en", "zh", "ja", "th", "de", "ru"])
def test_words(language: str) -> None:
    ours, reference = Tokenizer(), get_tokenizer(True, language=language)
    for text in TEXTS:
        tokens = [*ours.encode(text), ours.eot]
        assert ours.split_to_word_tokens(tokens, language) == reference.split_to_word_tokens(tokens)


@pytest.mark.parametrize("task", ["transcribe", "translate"])
def test_start_of_each_language(task: str) -> None:
    ours = Tokenizer(languages=100)
    for code in REFERENCE_LANGUAGES:
        reference = get_tokenizer(True, num_languages=100, language=code, task=task)
        assert ours.sot_sequence(code, task) == reference.sot_sequence
    assert Tokenizer(multilingual=False).sot_sequence() == get_tokenizer(False).sot_sequence


def test_languages() -> None:
    assert LANGUAGES == REFERENCE_LANGUAGES
    assert list(LANGUAGES) == list(REFERENCE_LANGUAGES)
    for name, code in TO_LANGUAGE_CODE.items():
        assert language_code(name) == language_code(name.title()) == language_code(code) == code


def test_special_text_is_text() -> None:
    tokenizer = Tokenizer()
    assert all(token < tokenizer.eot for token in tokenizer.encode("<|endoftext|> <|0.00|>"))


@pytest.mark.parametrize(
    ("size", "multilingual", "languages"), [(51864, False, 99), (51865, True, 99), (51866, True, 100)]
)
def test_for_vocab(size: int, multilingual: bool, languages: int) -> None:
    tokenizer = Tokenizer.for_vocab(size)
    assert (len(tokenizer), tokenizer.multilingual, len(tokenizer.languages)) == (size, multilingual, languages)


def test_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="51867 tokens is none of Whisper's"):
        Tokenizer.for_vocab(51_867)
    with pytest.raises(InputError, match=r"unknown language 'germen': did you mean german"):
        language_code("germen")
    with pytest.raises(InputError, match="unknown language 'xx': give a code"):
        language_code("xx")
    with pytest.raises(InputError, match="English-only model can't transcribe german"):
        Tokenizer(multilingual=False).sot_sequence("de")
    with pytest.raises(InputError, match="English-only model can't translate english"):
        Tokenizer(multilingual=False).sot_sequence("en", "translate")
    with pytest.raises(InputError, match="doesn't know cantonese"):
        Tokenizer(languages=99).sot_sequence("yue")
