"""Word and character error rates of transcripts, as Whisper's paper measures them.

Texts are normalised before they are compared (Radford et al. 2022, arXiv:2212.04356, appendix C): case, punctuation,
fillers, and in English spelling, contractions and numbers too. Source: openai/whisper ``whisper/normalizers``, by the
package whisper-normalizer; the alignment is jiwer's.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from audio.languages import language_code
from audio.tokenizer import WITHOUT_SPACES
from core.errors import InputError

__all__ = ["Errors", "character_error_rate", "character_errors", "normalizer", "word_error_rate", "word_errors"]

# What the package's English rules have and OpenAI's don't: with them, figures would differ from everybody's.
_NOT_OPENAIS = [r"\bkinda\b", r"\bsorta\b", r"\bdunno\b", r"\bcause\b"]


class Errors(NamedTuple):
    """Errors over one or more texts: those of several add up as `Errors(a.wrong + b.wrong, a.total + b.total)`."""

    wrong: int  # words that differ, are missing or were added
    total: int  # words that were said

    @property
    def rate(self) -> float:
        """The errors as a share of what was said; where nothing was said, their number."""
        return self.wrong / max(self.total, 1)


def word_errors(said: Sequence[str], heard: Sequence[str], language: str = "en") -> Errors:
    """Count the wrong words over pairs of texts; characters in languages that are written without spaces.

    Args:
        said: the reference texts.
        heard: what a model wrote, for each of them.
        language: code or English name; it decides how the texts are normalised.

    Raises:
        InputError: if there are not as many texts on both sides, or there is no such language.
    """
    normal = normalizer(language)
    return _errors([normal(text) for text in said], [normal(text) for text in heard])


def word_error_rate(said: Sequence[str], heard: Sequence[str], language: str = "en") -> float:
    """The share of wrong words over all texts together, 0 is perfect; see :func:`word_errors`."""
    return word_errors(said, heard, language).rate


def character_errors(said: Sequence[str], heard: Sequence[str], language: str = "en") -> Errors:
    """Count the wrong characters over pairs of texts, spaces included; see :func:`word_errors`."""
    normal = normalizer(language)
    return _errors([_spelled(normal(text)) for text in said], [_spelled(normal(text)) for text in heard])


def character_error_rate(said: Sequence[str], heard: Sequence[str], language: str = "en") -> float:
    """The share of wrong characters over all texts together, 0 is perfect; see :func:`character_errors`."""
    return character_errors(said, heard, language).rate


def normalizer(language: str = "en") -> Callable[[str], str]:
    """What brings texts of `language` to the form in which they are compared: words apart by single spaces.

    Raises InputError when there is no such language.
    """
    return _normalizer(language_code(language))


@cache
def _normalizer(code: str) -> Callable[[str], str]:
    if code == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        english = EnglishTextNormalizer()
        for pattern in _NOT_OPENAIS:
            english.replacers.pop(pattern, None)
        return lambda text: english(text).strip()
    from whisper_normalizer.basic import BasicTextNormalizer

    basic = BasicTextNormalizer(split_letters=code in WITHOUT_SPACES)
    return lambda text: basic(text).strip()


def _spelled(text: str) -> str:
    """Each character as a word; the space as a sign that no normalised text has."""
    return " ".join(text.replace(" ", "␣"))


def _errors(said: list[str], heard: list[str]) -> Errors:
    import jiwer

    if len(said) != len(heard):
        raise InputError(f"{len(said)} texts were said and {len(heard)} heard: expected one for each")
    if not said:
        return Errors(0, 0)
    counts = jiwer.process_words(said, heard)
    # the total is not jiwer's, which counts a text without words as one word
    return Errors(counts.substitutions + counts.deletions + counts.insertions, sum(len(text.split()) for text in said))
