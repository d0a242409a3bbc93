"""CLIP's byte-pair encoding: words become bytes, and pairs of neighbours are merged, the most frequent one first.

The last byte of a word carries a mark, so that "cat" within "category" and "cat" alone are different tokens.
Sources: Sennrich et al. 2016 (arXiv:1508.07909); openai/CLIP ``clip/simple_tokenizer.py``.
"""

import gzip
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import regex

from core.errors import InputError
from multimodal.clean import lower

__all__ = ["START", "STOP", "Bpe", "clip_bpe", "read_bpe", "train_bpe"]

START, STOP = "<start_of_text>", "<end_of_text>"
END = "</w>"
MERGES = Path(__file__).parent / "assets" / "clip_merges.txt.gz"

MAX_FILE = 64 * 2**20
REMEMBERED = 2**17  # words; enough for nearly all that occurs, little enough for endless text

_WORDS = regex.compile(
    rf"{START}|{STOP}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)


def _letters() -> dict[int, str]:
    """A printable character for each byte: itself where it is one, else one from 256 on; in the vocabulary's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_LETTERS = _letters()
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


class Bpe:
    """A vocabulary: 256 bytes, the same as ends of words, one token a merge, and the two marks of start and stop.

    Args:
        merges: pairs of symbols, first those to merge first; each is made of bytes and of earlier merges.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        self.merges = list(merges)
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        tokens = [*_BYTES, *(letter + END for letter in _BYTES), *(a + b for a, b in self.merges), START, STOP]
        self.ids = {token: index for index, token in enumerate(tokens)}
        self.tokens = tokens
        self.start, self.stop = len(tokens) - 2, len(tokens) - 1
        self._marks = {START: (self.start,), STOP: (self.stop,)}
        self._known: dict[str, tuple[int, ...]] = dict(self._marks)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Token ids of a cleaned text, without start and stop."""
        known = self._known
        ids: list[int] = []
        for word in _WORDS.findall(text):
            found = known.get(word)
            ids += self._learn(word) if found is None else found
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, a blank after each word; bytes that are not a whole character become U+FFFD.

        Start and stop are left out.
        """
        found = bytearray()
        for index in ids:
            if index >= self.start:
                continue
            token = self.tokens[index]
            whole = token.removesuffix(END) if index >= len(_BYTES) else token
            found += bytes(_BYTES[letter] for letter in whole)
            if whole != token:
                found += b" "
        return found.decode("utf-8", errors="replace")

    def _learn(self, word: str) -> tuple[int, ...]:
        letters = [_LETTERS[byte] for byte in word.encode("utf-8", errors="replace")]
        letters[-1] += END
        ids = tuple(self.ids[symbol] for symbol in self._merged(letters))
        if len(self._known) >= REMEMBERED:
            self._known = dict(self._marks)
        self._known[word] = ids
        return ids

    def _merged(self, symbols: list[str]) -> list[str]:
        never = len(self.ranks)
        while len(symbols) > 1:
            first, second = min(pairwise(symbols), key=lambda pair: self.ranks.get(pair, never))
            if (first, second) not in self.ranks:
                break
            merged: list[str] = []
            i = 0
            while i < len(symbols):
                if symbols[i] == first and i + 1 < len(symbols) and symbols[i + 1] == second:
                    merged.append(first + second)
                    i += 2
                else:
                    merged.append(symbols[i])
                    i += 1
            symbols = merged
        return symbols

    def save(self, path: Path) -> None:
        """Write the merges, one a line after a header: what `read_bpe` reads."""
        lines = ["#version: 0.2", *(f"{first} {second}" for first, second in self.merges)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@lru_cache(maxsize=1)
def clip_bpe() -> Bpe:
    """CLIP's vocabulary of 49 408 tokens."""
    return Bpe(_pairs(gzip.decompress(MERGES.read_bytes()).decode("utf-8"), MERGES))


def read_bpe(path: Path) -> Bpe:
    """Read a vocabulary from a text file of merges (a header, then two symbols a line).

    Raises:
        InputError: if the file is missing or huge, or a line isn't a pair of symbols made by earlier lines.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            raise InputError(f"{path} has more than {MAX_FILE >> 20} MB: no sensible file of merges has")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"can't read the merges {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: expected a file of merges, two symbols a line") from error
    return Bpe(_pairs(text, path))


def _pairs(text: str, path: Path) -> list[tuple[str, str]]:
    symbols = {*_BYTES, *(letter + END for letter in _BYTES)}
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(text.rstrip("\n").split("\n")[1:], start=2):
        match line.split(" "):
            case [first, second] if first in symbols and second in symbols:
                pairs.append((first, second))
                symbols.add(first + second)
            case _:
                raise InputError(f"{path}, line {number}: expected two symbols of earlier lines, not {line[:60]!r}")
    return pairs


def train_bpe(texts: Iterable[str], size: int) -> Bpe:
    """Make a vocabulary of at most `size` tokens from texts, for models too small for CLIP's 49 408 rows.

    Args:
        texts: what the model will read; cleaned as CLIP cleans.
        size: 514 (bytes and marks alone) or more.

    Raises:
        InputError: if `size` is below 514.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    wanted = size - 2 * len(_BYTES) - 2
    if wanted < 0:
        raise InputError(f"a vocabulary of {size} tokens is too small: 514 hold the bytes and marks alone")
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(_BYTES) + wanted,
        initial_alphabet=list(_BYTES),
        end_of_word_suffix=END,
        show_progress=False,
    )
    model = Tokenizer(models.BPE(end_of_word_suffix=END))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = (_WORDS.findall(lower(text)) for text in texts)
    spelled = (" ".join("".join(_LETTERS[byte] for byte in word.encode("utf-8")) for word in row) for row in words)
    model.train_from_iterator(spelled, trainer)
    merges = json.loads(model.to_str())["model"]["merges"]
    return Bpe([(first, second) for first, second in merges[:wanted]])
