"""Continuous batching (Orca, OSDI 2022): requests of any length share each step of one model, and leave when done.

Each has the rules, the choice of tokens and the limit of its own, and pages of one pool. Nothing that one request is
given depends on the others: with a model whose rows don't either, its result is the same as alone.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from core.errors import InputError
from core.generate.sampling import Chooser, Rule, most_likely
from core.generate.search import Hypothesis
from core.nn.cache import Cache, Slot
from core.nn.context import Ctx, Out, Tokens
from core.nn.paged import BlockTable, Pages

__all__ = ["Batching", "Model", "Packing", "Piece", "Request"]


class Model(Protocol):
    """A decoder that sees its tokens in `Ctx.tokens` and keeps keys and values in slots: `multimodal.decoder`'s."""

    def states(self, x: Tensor, ctx: Ctx) -> Out:
        """Return states (B, L, D) of tokens (B, L) or embeddings (B, L, D)."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Map states (..., D) to logits (..., V)."""
        ...

    def cache(self, make: Callable[[], Slot]) -> Cache:
        """Return an empty cache of slots that `make` makes."""
        ...


@runtime_checkable
class Packing(Protocol):
    """A model that reads new tokens of several texts in one pass: `multimodal.compiled_decoder`'s."""

    def last_states(self, parts: Sequence[Tensor], cache: Cache) -> Tensor:
        """Return the states (B, D) of the last of each text's new tokens (L,) or embeddings (L, D)."""
        ...


@dataclass(frozen=True, eq=False)
class Request:
    """One text to go on with.

    Attributes:
        prompt: (L,) int64 tokens, or their embeddings (L, D).
        limit: of the new tokens.
        stop: tokens that end the text.
        rules: applied in order to float32 logits; rules with a memory belong to one request.
        choose: greedy by default.
    """

    prompt: Tensor
    limit: int
    stop: Collection[int] = ()
    rules: Sequence[Rule] = ()
    choose: Chooser = most_likely

    def __post_init__(self) -> None:
        if self.prompt.ndim not in (1, 2) or not len(self.prompt) or self.limit < 1:
            raise InputError(
                f"a request needs a prompt (L,) or (L, D) with L >= 1 and a limit >= 1, "
                f"not {tuple(self.prompt.shape)} and {self.limit}"
            )


class Piece(NamedTuple):
    """One token of one request."""

    request: int  # as `Batching.add` has numbered it
    token: int
    logprob: float  # natural logarithm, under the rules
    ended: bool  # no other follows
    stopped: bool  # by this token, which is one of `stop`, and not by the limit


@dataclass(eq=False)
class _Running:
    number: int
    request: Request
    table: BlockTable = field(default_factory=BlockTable)
    read: int = 0  # tokens of the prompt
    tokens: list[int] = field(default_factory=list)

    @property
    def room(self) -> int:
        """Tokens whose keys and values it may come to hold: the last that is chosen is not fed."""
        return len(self.request.prompt) + self.request.limit - 1


class Batching:
    """Runs requests together.

    A request is admitted, first come, first served, as soon as there are pages for its prompt and for all that it may
    write: one that runs is never put off. A long prompt is read in chunks, between the steps of the others; short ones
    that wait are read between two steps together (in one pass by a :class:`Packing` model), so that their steps are
    shared from the first on.

    Args:
        model: in inference, on its device.
        pages: how many there are for all requests; None lets the pool grow.
        most: how many requests run at a time.
        chunk: most tokens of prompts that are read between two steps.
        page: tokens in a page.
    """

    def __init__(
        self, model: Model, *, pages: int | None = None, most: int = 16, chunk: int = 512, page: int = 16
    ) -> None:
        if most < 1 or chunk < 1:
            raise InputError(f"most {most} and chunk {chunk} must be at least 1")
        self.model, self.most, self.chunk = model, most, chunk
        self.pages = Pages(pages, page)
        self.cache = model.cache(self.pages.slot)
        self._waiting: deque[_Running] = deque()
        self._reading: deque[_Running] = deque()
        self._writing: list[_Running] = []
        self._reserved = 0  # pages, for those that run
        self._count = 0

    def __len__(self) -> int:
        """How many requests wait or run."""
        return len(self._waiting) + len(self._reading) + len(self._writing)

    def add(self, request: Request) -> int:
        """Queue a request and return its number, from 0.

        Raises:
            InputError: if the pool is too small for it.
        """
        new = _Running(self._count, request)
        wanted = self.pages.needed(new.room)
        if self.pages.bound is not None and wanted > self.pages.bound:
            raise InputError(
                f"a prompt of {len(request.prompt)} tokens and {request.limit} new ones need {wanted} pages, the pool "
                f"has {self.pages.bound}: shorten the request or make the pool larger"
            )
        self._count += 1
        self._waiting.append(new)
        return new.number

    def cancel(self, number: int) -> None:
        """Give up a request, whose pages are free then; one that is done already may be named too."""
        self._waiting = deque(one for one in self._waiting if one.number != number)
        for one in [*self._reading, *self._writing]:
            if one.number == number:
                self._leave(one)

    def run(self, requests: Iterable[Request]) -> list[Hypothesis]:
        """Run requests to their ends; the results are in their order, without the stop tokens."""
        numbers = [self.add(request) for request in requests]
        tokens: dict[int, list[int]] = {number: [] for number in numbers}
        logprobs: dict[int, list[float]] = {number: [] for number in numbers}
        stopped = dict.fromkeys(numbers, False)
        for piece in self.stream():
            if piece.request in tokens:
                stopped[piece.request] = piece.stopped
                logprobs[piece.request].append(piece.logprob)
                if not piece.stopped:
                    tokens[piece.request].append(piece.token)
        return [Hypothesis(tokens[n], logprobs[n], stopped[n]) for n in numbers]

    def stream(self) -> Iterator[Piece]:
        """Yield tokens as they come, until no request is left; others may be added meanwhile."""
        while len(self):
            yield from self.step()

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """Write a token of every request whose prompt is read, then read up to a chunk of prompts: what was written."""
        self._admit()
        pieces = []
        if self._writing:
            fed = torch.tensor([[one.tokens[-1]] for one in self._writing])
            logits = self._logits(self._writing, fed, [one.table.length for one in self._writing])
            pieces += self._choose(list(self._writing), logits)
        those, parts = self._parts()
        if those:
            logits = self._read(those, parts)
            for one, part in zip(those, parts, strict=True):
                one.read += len(part)
            rows = [row for row, one in enumerate(those) if one.read == len(one.request.prompt)]
            whole = [those[row] for row in rows]
            for one in whole:
                self._reading.remove(one)
            self._writing += whole
            if whole:
                pieces += self._choose(whole, logits[rows])
        return pieces

    def _admit(self) -> None:
        while self._waiting and len(self._reading) + len(self._writing) < self.most:
            wanted = self.pages.needed(self._waiting[0].room)
            if self.pages.bound is not None and self._reserved + wanted > self.pages.bound:
                return
            self._reserved += wanted
            self._reading.append(self._waiting.popleft())

    def _parts(self) -> tuple[list[_Running], list[Tensor]]:
        """Of whom a part of the prompt is read next, and the parts."""
        those, parts, left = list[_Running](), list[Tensor](), self.chunk
        for one in self._reading:
            # parts end at multiples of the chunk, not where there is room beside others: a prompt is read as alone
            part = one.request.prompt[one.read : one.read + self.chunk]
            if len(part) > left:
                break
            left -= len(part)
            those.append(one)
            parts.append(part)
        return those, parts

    def _read(self, those: list[_Running], parts: list[Tensor]) -> Tensor:
        """The logits (B, V), float32, of what follows these parts of prompts."""
        if not isinstance(self.model, Packing):
            pairs = zip(those, parts, strict=True)
            return torch.cat([self._logits([one], part[None], [one.read]) for one, part in pairs])
        self.pages.rows = [one.table for one in those]
        states = self.model.last_states(parts, self.cache)
        return self.model.logits(states).float()

    def _logits(self, those: list[_Running], fed: Tensor, starts: list[int]) -> Tensor:
        """The logits (B, V), float32, of what follows the last of the tokens that each of `those` is fed."""
        self.pages.rows = [one.table for one in those]
        device = those[0].request.prompt.device
        index = torch.tensor(starts)[:, None] + torch.arange(fed.shape[1])
        ctx = Ctx(tokens=Tokens(index=index.to(device)) if any(starts) else Tokens(), cache=self.cache)
        states: Any = self.model.states(fed.to(device), ctx).x
        return self.model.logits(states[:, -1]).float()

    def _choose(self, those: list[_Running], logits: Tensor) -> list[Piece]:
        """Choose a token for each of `those` by its logits (B, V)."""
        plain = [not one.request.rules and one.request.choose is most_likely for one in those]
        chosen = most_likely(logits)
        for row, one in enumerate(those):
            if plain[row]:
                continue
            before = torch.tensor([one.tokens], dtype=torch.long, device=logits.device)
            for rule in one.request.rules:
                rule(logits[row : row + 1], before)
            chosen[row] = one.request.choose(logits[row : row + 1])[0]
        logprobs = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(1)
        pieces = []
        for one, token, logprob in zip(those, chosen.tolist(), logprobs.tolist(), strict=True):
            one.tokens.append(token)
            stopped = token in one.request.stop
            ended = stopped or len(one.tokens) == one.request.limit
            if ended:
                self._leave(one)
            pieces.append(Piece(one.number, token, logprob, ended, stopped))
        return pieces

    def _leave(self, one: _Running) -> None:
        if one in self._writing:
            self._writing.remove(one)
        else:
            self._reading.remove(one)
        self.pages.close(one.table)
        self._reserved -= self.pages.needed(one.room)
