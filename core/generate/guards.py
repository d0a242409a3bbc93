"""Rules against repetition: what was generated becomes less likely, or may not come again."""

import torch
from torch import Tensor

from core.generate.sampling import Rule

__all__ = ["AfterPrompt", "NoRepeatNGram", "RepetitionPenalty"]


class RepetitionPenalty:
    """Make every token that was generated before less likely (Keskar et al. 2019, arXiv:1909.05858, section 4.1).

    Its logit is divided by `penalty` when above 0 and multiplied by it when below: once, however often it came. 1
    changes nothing, below 1 rewards repetition. Comes first among the rules: it is meant for what the model gave.
    """

    def __init__(self, penalty: float) -> None:
        if penalty <= 0:
            raise ValueError(f"a repetition penalty must be above 0, not {penalty}")
        self.penalty = penalty

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        found = logits.gather(1, tokens)
        logits.scatter_(1, tokens, torch.where(found < 0, found * self.penalty, found / self.penalty))


class NoRepeatNGram:
    """Let no run of `size` tokens come twice (Paulus et al. 2017, arXiv:1705.04304, section 2.5)."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"n-grams have 1 or more tokens, not {size}")
        self.size = size

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        length = tokens.shape[1]
        if length < self.size:
            return
        runs = tokens.unfold(1, self.size, 1)  # (B, length - size + 1, size)
        last = tokens[:, length - self.size + 1 :]  # (B, size - 1): what the next token would complete to a run
        again = (runs[..., :-1] == last[:, None]).all(-1)
        ends = (
            torch.zeros_like(again, dtype=logits.dtype).masked_fill_(again, -torch.inf).masked_fill_(~again, torch.inf)
        )
        logits.scatter_reduce_(1, runs[..., -1], ends, "amin")


class AfterPrompt:
    """Apply a rule to the prompt (B, L) and what follows it, as if all of it had been generated.

    In a search with several rows for each row of the prompt, they lie side by side.
    """

    def __init__(self, rule: Rule, prompt: Tensor) -> None:
        self.rule, self.prompt = rule, prompt

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        each = len(tokens) // len(self.prompt)
        self.rule(logits, torch.cat([self.prompt.repeat_interleave(each, 0), tokens], 1))
