"""Texts to rows of token ids, as each family of image-text models reads them.

CLIP: byte pairs between a start and a stop token, padded with 0. SigLIP: a file of the ``tokenizers`` library, a stop
token at the end, padded with it (SigLIP) or with 0 (SigLIP 2). A text that is too long loses its end, never its stop
token. Sources: open_clip ``tokenizer.py``; transformers ``models/{clip,siglip,siglip2}/tokenization_*.py``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError
from core.weights.files import MAX_JSON
from multimodal.bpe import Bpe, clip_bpe, read_bpe
from multimodal.clean import Cleaner, lower, lower_only, plain

if TYPE_CHECKING:
    import tokenizers

__all__ = ["ClipTokenizer", "SiglipTokenizer", "TextTokenizer"]


class TextTokenizer(ABC):
    """Texts to token ids of a fixed length, and back.

    Attributes:
        context: length of a row.
        vocab: number of tokens.
        start: what a row begins with; None where nothing is put before the text.
        eot: what ends the text.
        pad: what fills the rest of the row.
    """

    def __init__(self, context: int, *, vocab: int, start: int | None, eot: int, pad: int) -> None:
        if context < 3:
            raise InputError(f"a context of {context} tokens holds no text: expected 3 or more")
        self.context, self.vocab, self.start, self.eot, self.pad = context, vocab, start, eot, pad

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of the whole text, cleaned, without start, stop and padding."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of a row or of a part of it, up to its stop token."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Rows for a text tower: (len(texts), context) int64. A single string is one text."""
        texts = [texts] if isinstance(texts, str) else texts
        rows = np.full((len(texts), self.context), self.pad, dtype=np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = self._framed(self.encode(text))
            row[: len(ids)] = ids
        return torch.from_numpy(rows)

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """Indices of the texts whose end doesn't fit into a row."""
        texts = [texts] if isinstance(texts, str) else texts
        return [index for index, text in enumerate(texts) if len(self.encode(text)) > self._room]

    @property
    def _room(self) -> int:
        return self.context - (1 if self.start is None else 2)

    def _framed(self, ids: list[int]) -> list[int]:
        begin = [] if self.start is None else [self.start]
        return [*begin, *ids[: self._room], self.eot]

    def _text(self, ids: Iterable[int]) -> list[int]:
        """The ids before the first stop token, without start."""
        found: list[int] = []
        for index in ids:
            if int(index) == self.eot:
                break
            if int(index) != self.start:
                found.append(int(index))
        return found


class ClipTokenizer(TextTokenizer):
    """CLIP's: equal to open_clip's ``SimpleTokenizer``; also to transformers', wherever that cleans alike.

    Args:
        context: length of a row.
        pad: 0 in open_clip and OpenAI's code; transformers pads with the stop token. A causal tower can't tell.
        bpe: the vocabulary; CLIP's, if not given. A small model brings its own (`multimodal.bpe.train_bpe`).
        clean: what is done to a text first.
    """

    def __init__(self, context: int = 77, *, pad: int = 0, bpe: Bpe | None = None, clean: Cleaner = lower) -> None:
        self.bpe = clip_bpe() if bpe is None else bpe
        super().__init__(context, vocab=len(self.bpe), start=self.bpe.start, eot=self.bpe.stop, pad=pad)
        self.clean = clean

    @classmethod
    def from_file(cls, path: Path, context: int = 77) -> "ClipTokenizer":
        """With the vocabulary of a file of merges (InputError if it is none)."""
        return cls(context, bpe=read_bpe(path))

    def encode(self, text: str) -> list[int]:
        """Token ids of the whole text, cleaned, without start, stop and padding."""
        return self.bpe.encode(self.clean(text))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a row or of a part of it, up to its stop token; one blank between words."""
        return self.bpe.decode(self._text(ids)).strip()


class SiglipTokenizer(TextTokenizer):
    """SigLIP's and SigLIP 2's, and any other that is a ``tokenizer.json``: the text, a stop token, padding.

    Args:
        tokenizer: of the ``tokenizers`` library; its own rules for padding, length and special tokens are not used.
        context: length of a row.
        eot: the stop token.
        pad: the padding token; None for the stop token itself.
        clean: `plain` (SigLIP in transformers), `canonicalize` (in open_clip), `lower_only` (SigLIP 2).

    Raises:
        InputError: if the vocabulary has no such token.
    """

    def __init__(
        self,
        tokenizer: "tokenizers.Tokenizer",
        context: int = 64,
        *,
        eot: str = "</s>",
        pad: str | None = None,
        clean: Cleaner = plain,
    ) -> None:
        stop, fill = tokenizer.token_to_id(eot), tokenizer.token_to_id(eot if pad is None else pad)
        if stop is None or fill is None:
            missing = eot if stop is None else pad
            raise InputError(f"the tokenizer has no token {missing!r}: it doesn't belong to a SigLIP model")
        super().__init__(context, vocab=tokenizer.get_vocab_size(), start=None, eot=stop, pad=fill)
        self.tokenizer, self.clean = tokenizer, clean

    @classmethod
    def first(cls, tokenizer: "tokenizers.Tokenizer", context: int = 64, clean: Cleaner = plain) -> "SiglipTokenizer":
        """SigLIP's: padded with the stop token."""
        return cls(tokenizer, context, clean=clean)

    @classmethod
    def second(
        cls, tokenizer: "tokenizers.Tokenizer", context: int = 64, clean: Cleaner = lower_only
    ) -> "SiglipTokenizer":
        """SigLIP 2's, which is Gemma's in lower case: padded with 0."""
        return cls(tokenizer, context, eot="<eos>", pad="<pad>", clean=clean)

    @classmethod
    def from_folder(cls, path: Path, context: int = 64, clean: Cleaner | None = None) -> "SiglipTokenizer":
        """Read ``tokenizer.json`` or ``spiece.model`` of a folder; which SigLIP it is shows in its stop token.

        Raises:
            InputError: if the folder has neither, or what it has isn't SigLIP's.
        """
        tokenizer = read_tokenizer(Path(path))
        make = cls.second if tokenizer.token_to_id("<eos>") is not None else cls.first
        return make(tokenizer, context) if clean is None else make(tokenizer, context, clean)

    def encode(self, text: str) -> list[int]:
        """Token ids of the whole text, cleaned, without stop and padding."""
        return self.tokenizer.encode(self.clean(text), add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a row or of a part of it, up to its stop token."""
        return self.tokenizer.decode(self._text(ids)).strip()


def read_tokenizer(folder: Path) -> "tokenizers.Tokenizer":
    """The tokenizer of a model's folder: its ``tokenizer.json``, else its ``spiece.model``.

    Raises:
        InputError: if neither is there, or what is there can't be read.
    """
    import tokenizers

    path = folder / "tokenizer.json"
    if not path.is_file() and (folder / "spiece.model").is_file():
        from multimodal.sentencepiece import read_sentencepiece

        return read_sentencepiece(folder / "spiece.model")
    try:
        if path.stat().st_size > MAX_JSON:
            raise InputError(f"{path} has more than {MAX_JSON >> 20} MB: no tokenizer has")
        tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder} has no tokenizer: expected tokenizer.json or spiece.model in it") from error
    except InputError:
        raise
    except Exception as error:  # the library has no class of its own for a damaged file
        raise InputError(f"{path} is no tokenizer: {str(error).splitlines()[0]}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
