"""Generate tokens one after another with any model that can be called as a `Step`.

The same loop serves speech recognition and language models: what differs between them is the `Step` (model, cache and
whatever it attends to), the rules and the prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.generate.sampling import Chooser, Rule, most_likely

__all__ = ["Hypothesis", "Step", "generate", "stream"]


Step = Callable[[Tensor], Tensor]
"""A model together with its key/value cache, made anew for each call of `generate`.

It gives the logits (B, L, V) for what follows each of tokens (B, L), which come after all tokens of earlier calls. Of a
prompt's tokens the first may be left out: what follows them is known. The logits are the caller's to change.
"""


@dataclass(frozen=True)
class Hypothesis:
    """One row's result."""

    tokens: list[int]  # without the prompt and without the stop token
    logprobs: list[float]  # of each token under the rules; one more for the stop token if it was reached
    finished: bool  # the stop token was reached before the limit

    @property
    def logprob(self) -> float:
        """The natural logarithm of the whole sequence's probability, with the stop token's if it was reached."""
        return sum(self.logprobs)

    @classmethod
    def until(cls, stop: int, tokens: list[int], logprobs: list[float]) -> "Hypothesis":
        """What a row has chosen, up to its first `stop`, which it went on with if others were not done."""
        if stop not in tokens:
            return cls(tokens, logprobs, finished=False)
        end = tokens.index(stop)
        return cls(tokens[:end], logprobs[: end + 1], finished=True)


@torch.inference_mode()
def generate(
    step: Step,
    prompt: Tensor,
    *,
    stop: int,
    limit: int,
    rules: Sequence[Rule] = (),
    choose: Chooser = most_likely,
    keep: Callable[[Tensor], None] | None = None,
) -> list[Hypothesis]:
    """Extend each row of `prompt` (B, L) until it chooses the token `stop`, by `limit` tokens at most.

    Greedy by default; pass ``choose=Sample(temperature)`` to draw instead. `rules` are applied in order, to float32
    logits. Rows that finish early wait, fed with `stop`, and change nothing for the others. With `keep`, which makes
    `step` go on with some of its rows only, (rows left,) integers, nothing is computed for them.
    """
    found = list(stream(step, prompt, stop=stop, limit=limit, rules=rules, choose=choose, keep=keep))
    if not found:
        return [Hypothesis([], [], finished=False) for _ in prompt]
    tokens, scores = (torch.stack(part, dim=1).tolist() for part in zip(*found, strict=True))
    return [Hypothesis.until(stop, row, score) for row, score in zip(tokens, scores, strict=True)]


def stream(
    step: Step,
    prompt: Tensor,
    *,
    stop: int,
    limit: int,
    rules: Sequence[Rule] = (),
    choose: Chooser = most_likely,
    keep: Callable[[Tensor], None] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """As :func:`generate`, token by token: yield those of all rows (B,) and their log-probabilities (B,).

    Rows that have chosen `stop` go on with it. Whoever stops asking stops the work.
    """
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise ValueError(f"prompt must be (B, L) with L >= 1, not {tuple(prompt.shape)}")
    tokens = prompt[:, :0]
    done = torch.zeros(prompt.shape[0], dtype=torch.bool, device=prompt.device)
    rows = torch.arange(len(prompt), device=prompt.device)  # that `step` goes on with
    fed = prompt
    for _ in range(limit):
        with torch.inference_mode():
            logits = _spread(step(fed[rows])[:, -1].float(), rows, len(prompt))  # (rows, L, V) -> (B, V)
            for rule in rules:
                rule(logits, tokens)
            chosen = choose(logits).masked_fill(done, stop)
            fed = chosen[:, None]
            scores = logits.log_softmax(dim=-1).gather(1, fed)[:, 0]
            tokens = torch.cat([tokens, fed], dim=1)
            done = done | (chosen == stop)
            all_done = bool(done.all())
        yield chosen, scores
        if all_done:
            break
        with torch.inference_mode():
            if keep is not None and done[rows].any():
                left = (~done[rows]).nonzero()[:, 0]
                keep(left)
                rows = rows[left]


def _spread(logits: Tensor, rows: Tensor, count: int) -> Tensor:
    """Logits of some rows among those of all, (rows, V) -> (count, V); the others' are 0."""
    if len(rows) == count:
        return logits
    return logits.new_zeros(count, logits.shape[1]).index_copy_(0, rows, logits)
