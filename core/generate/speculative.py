"""Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192): a small model drafts, the large one judges.

Both read several tokens at a time almost as fast as one, so each pass of the large model yields several tokens. The
draft changes the speed, never the result: greedily the text is the large model's own, and drawn texts follow its
distribution.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from core.generate.sampling import Rule, drawn_from, most_likely
from core.generate.search import Hypothesis

__all__ = ["Agreement", "Judge", "Rejection", "RewindStep", "speculate"]


class RewindStep(Protocol):
    """A :data:`core.generate.search.Step` that can take tokens back."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Give the logits (B, L, V) for what follows each of tokens (B, L)."""
        ...

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` of the tokens that were fed."""
        ...


class Judge(Protocol):
    """Chooses tokens, given what the draft expects. One is made for each call of `speculate`.

    Attributes:
        beyond: positions after those of a draft for which tokens can be chosen too.
    """

    beyond: int

    def propose(self, drafted: Tensor, position: int) -> Tensor:
        """The draft's tokens (B,) by its logits (B, V), for the position'th new token, from 0."""
        ...

    def choose(self, logits: Tensor, drafted: Tensor, proposed: Tensor, position: int) -> Tensor:
        """The tokens (B,) by the logits (B, V) of the model itself.

        For a position beyond the draft, `drafted` and `proposed` are those of the last one.
        """
        ...


class Agreement:
    """The most likely token: a draft is accepted while it is the same."""

    beyond = 1

    def propose(self, drafted: Tensor, position: int) -> Tensor:
        """The draft's most likely tokens."""
        return most_likely(drafted)

    def choose(self, logits: Tensor, drafted: Tensor, proposed: Tensor, position: int) -> Tensor:
        """The model's most likely tokens."""
        return most_likely(logits)


class Rejection:
    """Draws from ``softmax(logits / temperature)``: a draft x is accepted with probability min(1, p(x) / q(x)).

    p is the model's distribution and q the draft's. Otherwise the token is drawn from max(0, p - q). A token depends on
    the tokens before it and on its own draws only, not on where the drafts of a batch began and ended.

    Args:
        draws: makes of a number, from 0, a number in [0, 1) for each row: (B,). Each token uses three of them.
        temperature: above 0.
    """

    beyond = 0  # a token that no draft was made for would be drawn in another way: rows would depend on one another

    def __init__(self, draws: Callable[[int], Tensor], temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}: use Agreement for 0")
        self.draws, self.temperature = draws, temperature

    def propose(self, drafted: Tensor, position: int) -> Tensor:
        """Draw from the draft's distribution."""
        return drawn_from(self._probabilities(drafted), self._draws(position, 0, drafted))

    def choose(self, logits: Tensor, drafted: Tensor, proposed: Tensor, position: int) -> Tensor:
        """The draft's tokens where they are accepted, others where they are not."""
        p, q, x = self._probabilities(logits), self._probabilities(drafted), proposed[:, None]
        accepted = self._draws(position, 1, logits) * q.gather(1, x)[:, 0] < p.gather(1, x)[:, 0]
        rest = (p - q).clamp(min=0)
        rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, p)  # the same but for rounding
        return torch.where(accepted, proposed, drawn_from(rest, self._draws(position, 2, logits)))

    def _probabilities(self, logits: Tensor) -> Tensor:
        return (logits.double() / self.temperature).softmax(dim=-1)

    def _draws(self, position: int, purpose: int, like: Tensor) -> Tensor:
        return self.draws(3 * position + purpose).to(like.device, torch.float64)


@torch.inference_mode()
def speculate(
    step: RewindStep,
    draft: RewindStep,
    prompt: Tensor,
    *,
    stop: int,
    limit: int,
    ahead: int = 4,
    rules: Sequence[Rule] = (),
    judge: Judge = Agreement(),
) -> list[Hypothesis]:
    """As :func:`core.generate.search.generate`, with the tokens of `draft` tried first.

    Rows of a batch go on together, by as many tokens as the least lucky one: best for one row, or few.

    Args:
        step, draft: the model and the one that drafts, of the same vocabulary; made anew for each call.
        prompt: (B, L) with L >= 1, for both.
        stop: the token that ends a text.
        limit: of the new tokens.
        ahead: how many tokens are drafted at a time, 1 or more.
        rules: for both, applied in order to float32 logits.
        judge: greedy by default.
    """
    if prompt.ndim != 2 or prompt.shape[1] == 0 or ahead < 1:
        raise ValueError(f"expected a prompt (B, L >= 1) and ahead >= 1, not {tuple(prompt.shape)} and {ahead}")
    begin = prompt.shape[1]
    model, drafter = _Reader(step, rules, begin), _Reader(draft, rules, begin)
    text = prompt  # and what was generated
    logprobs: list[Tensor] = []
    done = torch.zeros(prompt.shape[0], dtype=torch.bool, device=prompt.device)
    while text.shape[1] - begin < limit and not done.all():
        start, room = text.shape[1], limit - (text.shape[1] - begin)
        tried, drafted = text, []
        for position in range(start - begin, start - begin + min(ahead, room)):
            drafted.append(drafter.ruled(drafter.read(tried)[:, -1], tried))
            tried = torch.cat([tried, judge.propose(drafted[-1], position)[:, None]], 1)
        judged = min(len(drafted) + judge.beyond, room)
        read = model.read(tried[:, : start + judged - 1])[:, -judged:]  # (B, judged, V)
        for number in range(judged):
            expected = min(number, len(drafted) - 1)
            logits = model.ruled(read[:, number], text)
            proposed = tried[:, start + expected]
            chosen = judge.choose(logits, drafted[expected], proposed, start - begin + number).masked_fill(done, stop)
            logprobs.append(logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(dim=-1))
            text = torch.cat([text, chosen[:, None]], 1)
            done = done | (chosen == stop)
            if done.all() or not (done | (chosen == proposed)).all():
                break
        for reader in (model, drafter):
            reader.forget(text.shape[1] - 1)
    scores = torch.stack(logprobs, dim=1) if logprobs else torch.zeros(len(prompt), 0)
    new = text[:, begin:]
    return [Hypothesis.until(stop, row, score) for row, score in zip(new.tolist(), scores.tolist(), strict=True)]


class _Reader:
    """A model that remembers how much of a text it has read."""

    def __init__(self, step: RewindStep, rules: Sequence[Rule], begin: int) -> None:
        self.step, self.rules, self.begin = step, rules, begin
        self.length = 0

    def read(self, text: Tensor) -> Tensor:
        """The logits (B, L, V) after each token that is new."""
        new, self.length = text[:, self.length :], text.shape[1]
        return self.step(new)

    def ruled(self, logits: Tensor, text: Tensor) -> Tensor:
        """What the rules leave of logits (B, V), in float32, for what follows `text`."""
        logits = logits.float()
        for rule in self.rules:
            rule(logits, text[:, self.begin :])
        return logits

    def forget(self, length: int) -> None:
        """All but the first tokens, if there are more."""
        if self.length > length:
            self.length = length
            self.step.rewind(length)
