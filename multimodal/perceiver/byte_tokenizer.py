"""Texts as bytes: nothing is unknown, and nothing has to be learned first."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from core.errors import InputError
from core.nn import Tokens, padded_tokens

__all__ = ["ByteTokenizer"]


class ByteTokenizer:
    """UTF-8 bytes behind six special tokens, as Perceiver IO's language model numbers them.

    Text never becomes a special token, whatever it says.
    """

    pad, bos, eos, mask, cls, sep = range(6)
    names = ("[PAD]", "[BOS]", "[EOS]", "[MASK]", "[CLS]", "[SEP]")
    vocab = 6 + 256

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Return the ids of a text, between ``cls`` and ``sep`` if special tokens are wanted."""
        found = [byte + len(self.names) for byte in text.encode("utf-8")]
        return [self.cls, *found, self.sep] if special else found

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Return the text of ids; special tokens are left out, or written as their names.

        Bytes that are no UTF-8 become U+FFFD.

        Raises:
            InputError: if an id is none.
        """
        found = b""
        for token in ids:
            if not 0 <= token < self.vocab:
                raise InputError(f"{token} is no byte token: expected 0 to {self.vocab - 1}")
            if token >= len(self.names):
                found += bytes([token - len(self.names)])
            elif special:
                found += self.names[token].encode()
        return found.decode("utf-8", errors="replace")

    def batch(self, texts: Sequence[str], context: int) -> tuple[Tensor, Tokens]:
        """Return ids (B, L) int64, filled with ``pad``, and their tokens, which hide the padding.

        Raises:
            InputError: if there is no text, or one is longer than the context.
        """
        if not texts:
            raise InputError("there are no texts")
        rows = [self.encode(text) for text in texts]
        longest = max(map(len, rows))
        if longest > context:
            at = next(number for number, row in enumerate(rows) if len(row) == longest)
            raise InputError(f"text {at} has {longest} byte tokens, the model takes {context}: shorten it")
        ids = torch.tensor([row + [self.pad] * (longest - len(row)) for row in rows])
        return ids, padded_tokens(torch.tensor([len(row) for row in rows]), longest)
