"""Error rates: OpenAI's normalisation, jiwer's alignment, and what texts without words count."""

import jiwer
import pytest
from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

from audio.wer import (
    Errors,
    character_error_rate,
    character_errors,
    normalizer,
    word_error_rate,
    word_errors,
)
from core.errors import InputError

ENGLISH = [
    "Mr. Smith's colour TV cost $20 million, kinda, 'cause he dunno -- [noise] (cough) uh, two point five percent!",
    "I'd've sorta gone in nineteen ninety-nine; he'll be twenty-first, won't he?",
    "A café, naïve: 3,000 £5.20 ¢",
    "",
]
OTHERS = {
    "de": "Das ist – „schön“ [Musik] (lacht), nicht wahr? Größe 3,5",
    "hi": "नमस्ते, आप कैसे हैं?",
    "ja": "今日は、いい天気ですね。",
    "zh": "你好，world！",
}


@pytest.mark.parametrize("text", ENGLISH)
def test_english_equals_openais(text: str) -> None:
    assert normalizer("English")(text) == EnglishTextNormalizer()(text).strip()


@pytest.mark.parametrize("language", OTHERS)
def test_other_languages_equal_openais(language: str) -> None:
    expected = BasicTextNormalizer(split_letters=language in ("ja", "zh"))(OTHERS[language]).strip()
    assert normalizer(language)(OTHERS[language]) == expected


def test_rates_equal_jiwers() -> None:
    said = ["The quick brown fox.", "Jumps over the lazy dog!", "well then"]
    heard = ["the quick brown box", "jumps over a very lazy dog", ""]
    normal = normalizer()
    plain = [normal(text) for text in said], [normal(text) for text in heard]
    assert word_error_rate(said, heard) == pytest.approx(jiwer.wer(*plain))
    assert character_error_rate(said, heard) == pytest.approx(jiwer.cer(*plain))
    assert word_errors(said, heard) == Errors(wrong=5, total=11)


def test_rates_are_of_all_texts_together() -> None:
    first, second = word_errors(["a b c d"], ["a b c x"]), word_errors(["e"], ["y"])
    assert Errors(first.wrong + second.wrong, first.total + second.total).rate == 2 / 5
    assert word_error_rate(["a b c d", "e"], ["a b c x", "y"]) == 2 / 5


def test_characters_where_there_are_no_spaces() -> None:
    assert word_errors(["今日は"], ["昨日は"], "ja") == Errors(1, 3)


@pytest.mark.parametrize(
    ("said", "heard", "expected"),
    [
        ([], [], Errors(0, 0)),
        ([""], [""], Errors(0, 0)),
        (["[applause]"], ["well then"], Errors(2, 0)),
        (["a"], [""], (1, 1)),
    ],
)
def test_nothing_said_or_heard(said: list[str], heard: list[str], expected: Errors) -> None:
    assert word_errors(said, heard) == expected


def test_spaces_are_characters() -> None:
    assert character_errors(["ab cd"], ["abcd"]) == Errors(1, 5)


def test_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="2 texts were said and 1 heard"):
        word_errors(["a", "b"], ["a"])
    with pytest.raises(InputError, match="unknown language 'xx'"):
        normalizer("xx")
