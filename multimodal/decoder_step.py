"""A language model with its cache, as the loops of `core.generate` call it."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from core.nn import Cache, Ctx, Growing, Out, Slot, Tokens

__all__ = ["CachedDecoder", "DecoderStep"]


class CachedDecoder(Protocol):
    """What a step needs of a model: :class:`multimodal.decoder.Decoder`, or a vision-language model."""

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (B, L, D) of tokens (B, L)."""
        ...

    def states(self, x: Tensor, ctx: Ctx) -> Out:
        """Return the states (B, L, D) of tokens (B, L) or embeddings (B, L, D)."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits (..., V) of states (..., D)."""
        ...

    def cache(self, make: Callable[[], Slot]) -> Cache:
        """Return an empty cache."""
        ...


class DecoderStep:
    """A :data:`core.generate.Step` that can be rewound (speculative decoding) and reordered (beam search).

    Args:
        decoder: the model.
        prompt: embeddings (B, L, D) that stand for the first L tokens; those are then looked at by the rules only.
        make: makes the slots of the cache.
        lengths: (B,) of the prompts, which are padded on the left; None if all have the same.
        last: of the first call, logits are computed for what follows the last so many tokens.
        ctx: of every call, but for its cache and tokens: what else the model attends to.
    """

    def __init__(
        self,
        decoder: CachedDecoder,
        prompt: Tensor | None = None,
        make: Callable[[], Slot] = Growing,
        *,
        lengths: Tensor | None = None,
        last: int = 1,
        ctx: Ctx = Ctx(),
    ) -> None:
        self.decoder = decoder
        self.prompt = prompt
        self.cache = decoder.cache(make)
        self.last = last
        self.ctx = ctx
        self.lengths = lengths
        self.shift: Tensor | None = None  # (B,): how much padding comes first, from the first call on
        self.fed = 0
        self.rows = 0

    def __call__(self, tokens: Tensor) -> Tensor:
        """Give the logits (B, L, V) for what follows each of tokens (B, L); of the first call for the last ones."""
        first = self.fed == 0
        ctx = self.ctx._replace(cache=self.cache, tokens=self._tokens(tokens))
        states = self.decoder.states(self._embedded(tokens) if first else tokens, ctx).x
        self.fed, self.rows = self.fed + tokens.shape[1], len(tokens)
        return self.decoder.logits(states[:, -self.last :] if first else states)

    def rewind(self, length: int) -> None:
        """Forget all but the first tokens that were fed."""
        self.cache.truncate(length)
        self.fed = min(self.fed, length)

    def reorder(self, rows: Tensor) -> None:
        """Go on with other rows (new B,); as many as before stay with what they attend to beside the text."""
        if len(rows) == self.rows:
            self.cache.swap(rows)
        else:
            self.cache.reorder(rows)
        self.shift = None if self.shift is None else self.shift[rows]
        self.rows = len(rows)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows only."""
        self.cache.reorder(rows)
        self.shift = None if self.shift is None else self.shift[rows]
        self.rows = len(rows)

    def _embedded(self, tokens: Tensor) -> Tensor:
        if self.prompt is None:
            return tokens
        rest = tokens[:, self.prompt.shape[1] :]  # a draft may have begun before the first call
        return torch.cat([self.prompt, self.decoder.embed(rest).to(self.prompt.dtype)], 1)

    def _tokens(self, tokens: Tensor) -> Tokens:
        if self.lengths is None:
            return Tokens()
        if (
            self.fed == 0
        ):  # a draft may have begun: of the rows' longest prompt, not of what is fed, the rest is padding
            self.shift = int(self.lengths.max()) - self.lengths
        assert self.shift is not None
        index = torch.arange(self.fed, self.fed + tokens.shape[1], device=tokens.device) - self.shift[:, None]
        return Tokens(index=index.clamp(min=-1))
