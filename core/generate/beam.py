"""Beam search: keep the likeliest few beginnings instead of one.

The rules of what counts as finished and when to stop are those of transformers' ``generate(num_beams=...)``: a text's
score is its log-probability divided by its length, and a row stops when no beginning scores above its finished texts.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

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
    length_penalty: float = 1.0,
) -> list[Hypothesis]:
    """Extend each row of `prompt` (B, L) by the likeliest tokens found, up to the token `stop`, `limit` at most.

    Args:
        step: made anew for each call; first called with the B rows of the prompt, from then on with B * `beams` rows.
        prompt: with L >= 1.
        stop: the token that ends a text.
        limit: of the new tokens, 1 or more; a text that reaches it counts as finished.
        beams: how many beginnings are kept for each row.
        rules: applied in order, to float32 logits; the probabilities of what they leave sum to 1.
        length_penalty: a text's score is its log-probability / length ** this; 0 = the log-probability itself.
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
    rows = [_Row(beams, length_penalty) for _ in range(count)]
    for length in range(1, limit + 1):
        for rule in rules:
            rule(logits, tokens)
        found = logits.log_softmax(-1)
        total = (scores.view(-1, 1) + found).view(count, -1)  # (B * beams, V) -> (B, beams * V)
        # at most one candidate of each beam is the stop token: of twice as many, enough go on
        best, index = total.topk(2 * beams)
        source, chosen = first[:, None] + index // found.shape[1], index % found.shape[1]
        ended = (chosen == stop) | (length == limit)
        _collect(rows, best[:, :beams], source, chosen, ended, tokens, logprobs, found, stop)
        scores, kept = best.masked_fill(ended, -torch.inf).topk(beams)
        for row, likeliest in zip(rows, scores[:, 0].tolist(), strict=True):
            row.judge(likeliest, length)
        if length == limit or all(row.closed for row in rows):
            break
        source, chosen = source.gather(1, kept).flatten(), chosen.gather(1, kept).view(-1, 1)
        logprobs = torch.cat([logprobs[source], found[source].gather(1, chosen)], 1)
        tokens = torch.cat([tokens[source], chosen], 1)
        step.reorder(source)
        logits = step(chosen)[:, -1].float()
    return [row.finished[0][1] for row in rows]


def _collect(
    rows: list["_Row"],
    best: Tensor,
    source: Tensor,
    chosen: Tensor,
    ended: Tensor,
    tokens: Tensor,
    logprobs: Tensor,
    found: Tensor,
    stop: int,
) -> None:
    """Give every row the texts that ended among its `beams` likeliest candidates, best (B, beams)."""
    for number, rank in ended[:, : best.shape[1]].nonzero().tolist():
        beam, token = int(source[number, rank]), int(chosen[number, rank])
        text, each = tokens[beam].tolist(), [*logprobs[beam].tolist(), float(found[beam, token])]
        done = token == stop
        hypothesis = Hypothesis(text if done else [*text, token], each, done)
        rows[number].add(float(best[number, rank]), hypothesis)


class _Row:
    """The finished texts of one row, best first."""

    def __init__(self, beams: int, length_penalty: float) -> None:
        self.beams, self.length_penalty = beams, length_penalty
        self.finished: list[tuple[float, Hypothesis]] = []
        self.closed = False

    def add(self, logprob: float, text: Hypothesis) -> None:
        if not self.closed:
            score = logprob / len(text.logprobs) ** self.length_penalty
            self.finished = sorted([*self.finished, (score, text)], key=lambda pair: -pair[0])[: self.beams]

    def judge(self, likeliest: float, length: int) -> None:
        """Close the row if its best beginning, of `length` tokens, scores no better than the worst finished text."""
        full = len(self.finished) == self.beams
        self.closed = self.closed or (full and likeliest / length**self.length_penalty <= self.finished[-1][0])
