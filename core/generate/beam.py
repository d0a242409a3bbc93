"""Beam search: keep the likeliest few beginnings instead of one."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from core.generate.finish import Finish, NothingBetter
from core.generate.sampling import Rule
from core.generate.search import Hypothesis

__all__ = ["BeamStep", "beam_search"]


class BeamStep(Protocol):
    """A :data:`core.generate.search.Step` that can go on with other rows."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Give the logits (B, L, V) for what follows each of tokens (B, L)."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Continue with the given rows (new B,) of what was fed so far."""
        ...


@torch.inference_mode()
def beam_search(
    step: BeamStep,
    prompt: Tensor,
    *,
    stop: int,
    limit: int,
    beams: int,
    rules: Sequence[Rule] = (),
    finish: Callable[[int], Finish] = NothingBetter,
) -> list[Hypothesis]:
    """Extend each row of `prompt` (B, L) by the likeliest tokens found, up to the token `stop`, `limit` at most.

    Args:
        step: made anew for each call; first called with the B rows of the prompt, from then on with B * `beams` rows.
        prompt: with L >= 1.
        stop: the token that ends a text.
        limit: of the new tokens, 1 or more.
        beams: how many beginnings are kept for each row.
        rules: applied in order, to float32 logits; the probabilities of what they leave sum to 1.
        finish: makes of the number of beams what decides when a row is done, and which of its texts is the best.
    """
    if prompt.ndim != 2 or prompt.shape[1] == 0 or beams < 1 or limit < 1:
        raise ValueError(f"expected a prompt (B, L >= 1), beams and limit >= 1, not {prompt.shape}, {beams}, {limit}")
    count = prompt.shape[0]
    first = torch.arange(count, device=prompt.device) * beams  # each row's first beam
    logits = step(prompt)[:, -1].float().repeat_interleave(beams, 0)
    step.reorder(torch.arange(count, device=prompt.device).repeat_interleave(beams))
    tokens = prompt.new_empty(count * beams, 0)
    logprobs = logits.new_empty(count * beams, 0)
    scores = logits.new_zeros(count, beams)
    scores[:, 1:] = -torch.inf  # at the start all beams of a row are the same
    rows = [finish(beams) for _ in range(count)]
    for length in range(1, limit + 1):
        for rule in rules:
            rule(logits, tokens)
        found = logits.log_softmax(-1)
        total = (scores.view(-1, 1) + found).view(count, -1)  # (B * beams, V) -> (B, beams * V)
        # at most one candidate of each beam is the stop token: of twice as many, enough go on
        best, index = total.topk(min(2 * beams, total.shape[1]))
        source, chosen = first[:, None] + index // found.shape[1], index % found.shape[1]
        scores, kept = best.masked_fill(chosen == stop, -torch.inf).topk(beams)
        texts = _Texts(tokens, logprobs, found, source, chosen, stop)
        for number, rank in ((chosen == stop) & (best > -torch.inf)).nonzero().tolist():
            if not rows[number].closed:
                rows[number].ended(rank, int(kept[number, -1]), texts(number, rank))
        for number, row in enumerate(rows):
            if row.closed:
                continue
            row.judge(float(scores[number, 0]), length)
            if row.closed or length == limit:
                for rank in kept[number][scores[number] > -torch.inf].tolist():
                    row.cut(rank, texts(number, rank))
        if length == limit or all(row.closed for row in rows):
            break
        source, chosen = source.gather(1, kept).flatten(), chosen.gather(1, kept).view(-1, 1)
        logprobs = torch.cat([logprobs[source], found[source].gather(1, chosen)], 1)
        tokens = torch.cat([tokens[source], chosen], 1)
        step.reorder(source)
        logits = step(chosen)[:, -1].float()
    return [row.best() for row in rows]


class _Texts:
    """The texts that the candidates of one step are."""

    def __init__(
        self, tokens: Tensor, logprobs: Tensor, found: Tensor, source: Tensor, chosen: Tensor, stop: int
    ) -> None:
        self.tokens, self.logprobs, self.found = tokens, logprobs, found
        self.source, self.chosen, self.stop = source, chosen, stop

    def __call__(self, row: int, rank: int) -> Hypothesis:
        beam, token = int(self.source[row, rank]), int(self.chosen[row, rank])
        text, each = self.tokens[beam].tolist(), [*self.logprobs[beam].tolist(), float(self.found[beam, token])]
        done = token == self.stop
        return Hypothesis(text if done else [*text, token], each, done)
