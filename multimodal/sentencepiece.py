"""Reads a ``spiece.model`` of SentencePiece into the ``tokenizers`` library, which then needs no SentencePiece.

The file is a protocol buffer; five of its fields matter here. The tokens are SentencePiece's, except that two divisions
of a word that are exactly as likely ("999" as 99 and 9, or as 9 and 99) may be told apart otherwise.
Sources: google/sentencepiece ``src/sentencepiece_model.proto``; transformers ``convert_slow_tokenizer.py``.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InputError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["read_sentencepiece"]

MAX_FILE = 64 * 2**20
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
UNIGRAM = 1
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def read_sentencepiece(path: Path) -> "tokenizers.Tokenizer":
    """The tokenizer of a SentencePiece model of unigrams, which is what SigLIP's is.

    Raises:
        InputError: if the file can't be read, is huge or damaged, or is of byte pairs.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            raise InputError(f"{path} has more than {MAX_FILE >> 20} MB: no SentencePiece model has")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    try:
        return _built(data)
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except (IndexError, ValueError, KeyError, TypeError, struct.error) as error:
        raise InputError(f"{path} is damaged, or no SentencePiece model: expected a spiece.model") from error


def _built(data: bytes) -> "tokenizers.Tokenizer":
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces: list[tuple[str, float]] = []
    kinds: list[int] = []
    charsmap, prefix, model = b"", True, UNIGRAM
    for number, value in _fields(data):
        if number == 1:  # a piece: its text, score and kind
            found = dict(_fields(value))
            pieces.append((found[1].decode("utf-8"), struct.unpack("<f", found[2])[0] if 2 in found else 0.0))
            kinds.append(found.get(3, 1))
        elif number == 2:  # how it was trained
            model = dict(_fields(value)).get(3, UNIGRAM)
        elif number == 3:  # how texts are normalised
            found = dict(_fields(value))
            charsmap, prefix = found.get(2, b""), bool(found.get(3, True))
    if model != UNIGRAM:
        raise InputError("is a SentencePiece model of byte pairs: one of unigrams, or a tokenizer.json, was expected")
    tokenizer = Tokenizer(models.Unigram(pieces, kinds.index(UNKNOWN), False))
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(charsmap)] if charsmap else []
    steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    special = [text for (text, _), kind in zip(pieces, kinds, strict=True) if kind in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    return tokenizer


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: number and value; numbers as int, everything else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {_EIGHT: 8, _FOUR: 4}.get(kind)
        if size is None:
            if kind != _BYTES:
                raise ValueError(f"a field of kind {kind}")
            size, at = _varint(data, at)
        if at + size > len(data):
            raise ValueError("a field beyond the end")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without end")
