"""Whisper's tokenizers, from tiny.en to large-v3 and turbo.

Every checkpoint uses one of two byte-pair vocabularies (English-only: GPT-2's; multilingual), followed by the same
special tokens, so the two rank files in ``audio/assets`` serve all of them, whatever format the weights come in.
Source: openai/whisper ``whisper/tokenizer.py``.
"""

import base64
import gzip
import string
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import tiktoken

from audio.languages import LANGUAGES, language_code
from core.errors import InputError

__all__ = ["WITHOUT_SPACES", "Task", "Tokenizer"]

Task = Literal["transcribe", "translate"]

WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # words can't be told apart by spaces

TIMESTAMPS = 1501  # <|0.00|> to <|30.00|> in steps of 20 ms

_PIECES = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""  # GPT-2's pre-tokenizer
_INCOMPLETE = "\ufffd"  # what bytes decode to that are not yet a whole character

# Speaker tags, brackets and music: written, not spoken. Hyphen and quote are fine within a word only.
_ANNOTATIONS = [
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))", "[[", "]]", "{{", "}}"),
    *("♪♪", "♪♪♪"),
]
_MUSIC = "♩♪♫♬♭♮♯"  # several tokens in one of the vocabularies: their shared first token is forbidden
_WORD_INNER = [" -", " '"]


class Tokenizer:
    """Text to token ids and back.

    `multilingual` selects the vocabulary, `languages` how many language tokens it has (99; 100 from large-v3 on). The
    tokenizer holds no state: language and task are given where they matter.
    """

    def __init__(self, multilingual: bool = True, languages: int = 99) -> None:
        self.multilingual = multilingual
        self.languages = tuple(LANGUAGES)[:languages]
        self.encoding = _encoding("multilingual" if multilingual else "gpt2", self.languages)

    @classmethod
    def for_vocab(cls, size: int) -> "Tokenizer":
        """The tokenizer of a checkpoint whose decoder has `size` tokens.

        Raises InputError when no Whisper vocabulary has that size.
        """
        known = {51_864: (False, 99), 51_865: (True, 99), 51_866: (True, 100)}
        if size not in known:
            expected = ", ".join(f"{number}" for number in known)
            raise InputError(
                f"a vocabulary of {size} tokens is none of Whisper's ({expected}): no tokenizer fits this checkpoint"
            )
        multilingual, languages = known[size]
        return cls(multilingual, languages)

    def __len__(self) -> int:
        return self.encoding.n_vocab

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. What looks like a special token is read as plain text."""
        return self.encoding.encode_ordinary(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`, without timestamps; bytes that are not a whole character become U+FFFD."""
        return self.encoding.decode([token for token in tokens if token < self.timestamp_begin])

    def decode_with_timestamps(self, tokens: Sequence[int]) -> str:
        """The text of `tokens` with timestamps written as ``<|1.08|>``."""
        return self.encoding.decode(list(tokens))

    def special(self, name: str) -> int:
        """The id of the special token written ``<|name|>``."""
        return self.encoding.encode_single_token(f"<|{name}|>")

    @cached_property
    def eot(self) -> int:
        """Ends a transcript; every id below it is text."""
        return self.special("endoftext")

    @cached_property
    def sot(self) -> int:
        """Starts a transcript."""
        return self.special("startoftranscript")

    @cached_property
    def sot_prev(self) -> int:
        """Starts the text that came before this window."""
        return self.special("startofprev")

    @cached_property
    def sot_lm(self) -> int:
        """Starts text without audio; a leftover of training."""
        return self.special("startoflm")

    @cached_property
    def no_speech(self) -> int:
        """Predicted right after `sot` when nobody speaks."""
        return self.special("nospeech")

    @cached_property
    def no_timestamps(self) -> int:
        """In the prompt: no timestamps wanted."""
        return self.special("notimestamps")

    @cached_property
    def timestamp_begin(self) -> int:
        """``<|0.00|>``; every id from here on is a timestamp."""
        return self.special("0.00")

    @cached_property
    def language_tokens(self) -> dict[str, int]:
        """Language code -> token id."""
        return {code: self.special(code) for code in self.languages}

    def sot_sequence(self, language: str = "en", task: Task = "transcribe") -> tuple[int, ...]:
        """What a transcript starts with: `sot`, language, task; `sot` alone in the English-only vocabulary.

        Raises InputError for a language that the checkpoint doesn't know.
        """
        code = language_code(language)
        if not self.multilingual:
            if code != "en" or task != "transcribe":
                raise InputError(
                    f"an English-only model can't {task} {LANGUAGES[code]}: use a multilingual one, such as tiny"
                )
            return (self.sot,)
        if code not in self.language_tokens:
            raise InputError(f"this model doesn't know {LANGUAGES[code]}: large-v3 and turbo do")
        return (self.sot, self.language_tokens[code], self.special(task))

    @cached_property
    def non_speech_tokens(self) -> tuple[int, ...]:
        """Text tokens that only annotate and are never spoken (brackets, speaker tags, notes of music), sorted."""
        found = {self.encode(text)[0] for text in _WORD_INNER}
        for symbol in [*_ANNOTATIONS, *_MUSIC]:
            for tokens in (self.encode(symbol), self.encode(" " + symbol)):
                if len(tokens) == 1 or symbol in _MUSIC:
                    found.add(tokens[0])
        return tuple(sorted(found))

    def split_to_word_tokens(self, tokens: Sequence[int], language: str = "en") -> tuple[list[str], list[list[int]]]:
        """Split `tokens` into words: their texts, and the tokens of each.

        Words begin at a space, punctuation stands alone; languages written without spaces are split at each character.
        """
        if language in WITHOUT_SPACES:
            return self.split_on_unicode(tokens)
        return self.split_on_spaces(tokens)

    def split_on_unicode(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """The shortest runs of tokens that decode to whole characters: their texts, and the tokens of each."""
        whole = self.decode_with_timestamps(tokens)
        texts: list[str] = []
        runs: list[list[int]] = []
        run: list[int] = []
        offset = 0  # characters of `whole` that earlier runs have used up
        for token in tokens:
            run.append(token)
            text = self.decode_with_timestamps(run)
            gap = text.find(_INCOMPLETE)
            if gap < 0 or whole[offset + gap] == _INCOMPLETE:  # the second: the text really has a U+FFFD there
                texts.append(text)
                runs.append(run)
                run = []
                offset += len(text)
        return texts, runs

    def split_on_spaces(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """Words that begin at a space, at punctuation or at a special token: their texts, and the tokens of each."""
        words: list[str] = []
        word_tokens: list[list[int]] = []
        for text, run in zip(*self.split_on_unicode(tokens), strict=True):
            begins = run[0] >= self.eot or text.startswith(" ") or text.strip() in string.punctuation
            if begins or not words:
                words.append(text)
                word_tokens.append(list(run))
            else:
                words[-1] += text
                word_tokens[-1] += run
        return words, word_tokens


@lru_cache(maxsize=4)
def _encoding(vocabulary: str, languages: tuple[str, ...]) -> tiktoken.Encoding:
    """The byte-pair encoding of a rank file, followed by Whisper's special tokens."""
    packed = (Path(__file__).parent / "assets" / f"{vocabulary}.tiktoken.gz").read_bytes()
    pairs = (line.split() for line in gzip.decompress(packed).splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    names = ["endoftext", "startoftranscript", *languages, "translate", "transcribe"]
    names += ["startoflm", "startofprev", "nospeech", "notimestamps"]
    names += [f"{i * 0.02:.2f}" for i in range(TIMESTAMPS)]
    special = {f"<|{name}|>": len(ranks) + i for i, name in enumerate(names)}
    return tiktoken.Encoding(
        vocabulary,
        pat_str=_PIECES,
        mergeable_ranks=ranks,
        special_tokens=special,
        explicit_n_vocab=len(ranks) + len(special),
    )
