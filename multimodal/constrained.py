"""Texts that must be JSON of a schema: tokens that would break it are never chosen. The grammar is `llguidance`'s."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from core.errors import InputError
from multimodal.language_tokenizer import LanguageTokenizer

__all__ = ["JsonRule"]


class JsonRule:
    """A rule of `core.generate` for every search, beams and drafts included.

    Args:
        tokenizer: of the model.
        schema: a JSON schema as data or text; ``{}`` for any JSON.
        vocab: how many logits there are.
        stop: the token that ends a text, allowed when the JSON is whole.

    Raises:
        InputError: if the schema is none, or the tokenizer can't be read.
    """

    def __init__(self, tokenizer: LanguageTokenizer, schema: Mapping[str, Any] | str, vocab: int, stop: int) -> None:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        try:
            json.loads(text)
        except ValueError as error:
            raise InputError(f"the schema is no JSON: {error}") from error
        try:
            self._tokens = LLTokenizer(
                tokenizer.tokenizer.to_str(), n_vocab=max(vocab, tokenizer.vocab), eos_token=stop
            )
            grammar = LLMatcher.grammar_from_json_schema(text)
            self._fresh = LLMatcher(self._tokens, grammar)
        # the library raises ValueError and its own kinds
        except Exception as error:
            raise InputError(f"this JSON schema can't be followed: {' '.join(str(error).split())}") from error
        if self._fresh.is_error():
            raise InputError(f"this JSON schema can't be followed: {' '.join(self._fresh.get_error().split())}")
        self._rows: list[tuple[LLMatcher, list[int]]] = []
        self._stop = stop

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        words = (max(logits.shape[1], self._tokens.vocab_size) + 31) // 32
        for row, text in enumerate(tokens.tolist()):
            if self._stop in text:  # it has ended and waits for others
                continue
            matcher = self._at(row, text)
            if matcher is None:
                continue
            bits = np.zeros(words, np.int32)
            matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
            if matcher.is_error():
                raise InputError(f"the JSON schema is too much to follow: {' '.join(matcher.get_error().split())}")
            allowed = np.unpackbits(bits.view(np.uint8), bitorder="little")[: logits.shape[1]].astype(bool)
            if not allowed.any():
                allowed[self._stop] = True
            logits[row].masked_fill_(torch.from_numpy(~allowed).to(logits.device), -torch.inf)

    def _at(self, row: int, text: list[int]) -> LLMatcher | None:
        """A grammar that has read the text; rows of beams change places, and drafts are taken back.

        None for a text that breaks the grammar: a beam that is as good as none, kept for want of others.
        """
        while len(self._rows) <= row:
            self._rows.append((self._fresh.deep_copy(), []))
        matcher, read = self._rows[row]
        same = next((n for n, (a, b) in enumerate(zip(read, text, strict=False)) if a != b), min(len(read), len(text)))
        if same < len(read):
            matcher.rollback(len(read) - same)
        taken = same + (matcher.try_consume_tokens(text[same:]) if same < len(text) else 0)
        self._rows[row] = matcher, text[:taken]
        return matcher if taken == len(text) else None
