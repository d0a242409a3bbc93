"""The tokenizer of a language model: a thin layer over the `tokenizers` library, which reads ``tokenizer.json``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import DecodeStream

from core.errors import InputError
from core.weights.files import read_json

__all__ = ["Detokenizer", "LanguageTokenizer"]

FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
MAX_BYTES = 64 * 2**20


class LanguageTokenizer:
    """Text to tokens and back.

    Attributes:
        vocab: how many tokens there are; the model may have rows for more.
        stops: the tokens that end a text, the first one first; none for a tokenizer that has no end.

    Args:
        tokenizer: of the library.
        stops: see above.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[int] = ()) -> None:
        tokenizer.no_truncation()  # what is too long is an error, never cut
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.stops = tuple(stops)
        self.vocab = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, folder: Path | str) -> "LanguageTokenizer":
        """Read ``tokenizer.json``, or GPT-2's ``vocab.json`` and ``merges.txt``, of a folder.

        The tokens that end a text are those of ``generation_config.json``, ``config.json`` and
        ``tokenizer_config.json``.

        Raises:
            InputError: if there is no tokenizer that can be read.
        """
        folder = Path(folder)
        tokenizer = _read(folder)
        return cls(tokenizer, _stops(folder, tokenizer))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the tokens of a text.

        Args:
            text: any.
            special: add what the model expects around a text, such as ``<s>``; a chat template has written it already.
        """
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=special).ids
        return found

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of tokens; with ``special`` also those that are no text."""
        found: str = self.tokenizer.decode(list(tokens), skip_special_tokens=not special)
        return found

    def token(self, text: str) -> int | None:
        """Return the number of the token that is written so, or None."""
        found: int | None = self.tokenizer.token_to_id(text)
        return found

    def detokenizer(self) -> "Detokenizer":
        """Return what turns tokens into text one by one."""
        return Detokenizer(self)

    def save(self, folder: Path | str) -> None:
        """Write ``tokenizer.json``."""
        self.tokenizer.save(str(Path(folder) / "tokenizer.json"))


class Detokenizer:
    """Text of tokens that come one by one: the pieces, joined, are the text of all, and none ends inside a letter."""

    def __init__(self, tokenizer: LanguageTokenizer) -> None:
        self._of = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._tokens: list[int] = []
        self._shown = ""

    def add(self, token: int) -> str:
        """Return what can be shown now; nothing while a letter is incomplete."""
        self._tokens.append(token)
        piece: str = self._stream.step(self._of.tokenizer, token) or ""
        self._shown += piece
        return piece

    def rest(self) -> str:
        """Return what is left at the end, incomplete letters as the replacement character."""
        return self._of.decode(self._tokens)[len(self._shown) :]


def _read(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if path.is_file():
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than the {MAX_BYTES >> 20} MB of any sensible tokenizer")
        return _checked(lambda: Tokenizer.from_file(str(path)), path)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if vocab.is_file() and merges.is_file():
        return _checked(lambda: _byte_level(vocab, merges), vocab)
    if (folder / "tokenizer.model").is_file():
        raise InputError(f"{folder} has a tokenizer.model only: save it with transformers once, as tokenizer.json")
    raise InputError(f"{folder} has no tokenizer: expected tokenizer.json, or vocab.json and merges.txt")


def _checked(read: Any, path: Path) -> Tokenizer:
    try:
        return read()
    # the library raises plain Exception for whatever is wrong with a file
    except Exception as error:
        raise InputError(f"{path} is no tokenizer that can be read: {' '.join(str(error).split())}") from error


def _byte_level(vocab: Path, merges: Path) -> Tokenizer:
    """GPT-2's byte pairs."""
    tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id("<|endoftext|>") is not None:
        tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def _stops(folder: Path, tokenizer: Tokenizer) -> list[int]:
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        said = read_json(folder / name) if (folder / name).is_file() else {}
        found += list(_numbers(said.get("eos_token_id"), tokenizer))
    said = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    token = said.get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    end = tokenizer.token_to_id(text) if isinstance(text, str) else None
    if end is not None:
        found.insert(0, end)  # chats end with the tokenizer's, where a base model's config names another
    end = tokenizer.token_to_id("<|endoftext|>")
    if not found and end is not None:
        found.append(end)
    return list(dict.fromkeys(found))


def _numbers(said: Any, tokenizer: Tokenizer) -> Iterator[int]:
    for number in said if isinstance(said, list) else [said]:
        if isinstance(number, int) and not isinstance(number, bool) and tokenizer.id_to_token(number) is not None:
            yield number
