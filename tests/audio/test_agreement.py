"""LocalAgreement-2: what two looks in a row say."""

import random

from audio.agreement import Agreement
from audio.transcript import Word


def look(text: str, start: float = 0.0, jitter: float = 0.0) -> list[Word]:
    """Words of half a second each."""
    dice = random.Random(text)
    starts = [start + 0.5 * n + jitter * dice.uniform(-1, 1) for n in range(len(text.split()))]
    return [Word(at, at + 0.5, f" {word}", 1.0) for at, word in zip(starts, text.split(), strict=True)]


def said(words: list[Word]) -> str:
    return "".join(word.text for word in words).strip()


def test_two_looks_settle_what_they_share() -> None:
    agreement = Agreement()
    assert agreement(look("I saw the")) == []
    assert said(agreement(look("I saw a cat"))) == "I saw"
    assert said(agreement.open) == "a cat"
    assert said(agreement(look("I saw a cat on the"))) == "a cat"
    assert said(agreement.close(look("I saw a cat on the mat."))) == "on the mat."
    assert agreement.until == 3.5
    assert agreement.open == []


def test_case_and_punctuation_do_not_matter_and_the_later_look_counts() -> None:
    agreement = Agreement()
    agreement(look("and so. My"))
    assert said(agreement(look("And so, my fellow"))) == "And so, my"


def test_times_that_vary_lose_and_double_nothing() -> None:
    said_so = "ask not what your country can do for you ask what you can do for your country"
    text = said_so.split()
    for jitter in (0.0, 0.2, 0.4):
        agreement, found = Agreement(), []
        for count in range(1, len(text) + 1):
            found += agreement(look(" ".join(text[:count]), jitter=jitter))
        found += agreement.close(look(" ".join(text), jitter=jitter))
        assert said(found) == said_so


def test_a_settled_word_heard_otherwise_is_not_settled_twice() -> None:
    agreement = Agreement()
    agreement(look("the colour of it"))
    assert said(agreement(look("the colour of it was"))) == "the colour of it"
    assert said(agreement(look("the color of it was red"))) == "was"
    assert said(agreement(look("a color of it was red too"))) == "red"


def test_what_is_overdue_is_settled_in_disagreement() -> None:
    agreement = Agreement()
    agreement(look("one two three"))
    assert said(agreement(look("won too free four"), overdue=1.0)) == "won too"
    assert said(agreement.open) == "free four"


def test_forgotten_audio_takes_its_words_along() -> None:
    agreement = Agreement()
    agreement(look("one two three four"))
    agreement(look("one two three four"))
    assert agreement.forget(1.2) == " one two"
    assert said(list(agreement.settled)) == "three four"
    assert said(agreement(look("three four five", start=1.0))) == ""
    assert said(agreement(look("three four five six", start=1.0))) == "five"
    assert agreement.forget(9.0) == " three four five"
    # looks begin anew, and the last settled word is heard again
    assert said(agreement.close(look("five six seven", start=2.45))) == "six seven"


def test_silence() -> None:
    agreement = Agreement()
    assert agreement([]) == agreement.close([]) == []
    agreement(look("so"))
    assert agreement([]) == []
    assert agreement.open == []
