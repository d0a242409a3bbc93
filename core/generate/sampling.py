"""What is done to logits before a token is chosen, and how it is chosen: small objects that compose.

A **rule** forbids tokens; a **chooser** turns the logits that are left into one token a row. Both are plain callables,
so a model family adds its own without touching this file (Whisper's timestamp rules are in ``audio/writing.py``).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = [
    "Chooser",
    "Drawn",
    "ForcePrefix",
    "MinLength",
    "MinP",
    "Rule",
    "Sample",
    "Suppress",
    "SuppressAtBegin",
    "Temperature",
    "TopK",
    "TopP",
    "drawn_from",
    "most_likely",
]

Rule = Callable[[Tensor, Tensor], None]
"""Changes, in place, the logits (B, V) for what follows tokens (B, n): those generated so far, without the prompt."""

Chooser = Callable[[Tensor], Tensor]
"""Turns logits (B, V) into token ids (B,)."""


class Suppress:
    """Never choose any of `tokens`."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.index = torch.tensor(sorted(set(tokens)), dtype=torch.long)

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        if self.index.device != logits.device:  # kept there: moving it at each step would stall a GPU
            self.index = self.index.to(logits.device)
        logits.index_fill_(-1, self.index, -torch.inf)


class SuppressAtBegin(Suppress):
    """Do not choose any of `tokens` as the first one."""

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        if tokens.shape[1] == 0:
            super().__call__(logits, tokens)


class ForcePrefix:
    """Make every row begin with `tokens`; their log-probability is then 0."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.prefix = list(tokens)

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        if tokens.shape[1] < len(self.prefix):
            forced = self.prefix[tokens.shape[1]]
            kept = logits[:, forced].clone()
            logits.fill_(-torch.inf)
            logits[:, forced] = kept


class MinLength:
    """Do not choose `stop` before there are `length` tokens."""

    def __init__(self, stop: int, length: int) -> None:
        self.stop, self.length = stop, length

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        if tokens.shape[1] < self.length:
            logits[:, self.stop] = -torch.inf


class TopK:
    """Choose among the `k` most likely tokens, and those that are as likely as the last of them."""

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"k must be 1 or more, not {k}")
        self.k = k

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        least = logits.topk(min(self.k, logits.shape[-1])).values[:, -1:]
        logits.masked_fill_(logits < least, -torch.inf)


class TopP:
    """Choose among the fewest tokens whose probabilities sum to `p` or more (nucleus sampling, arXiv:1904.09751)."""

    def __init__(self, p: float) -> None:
        if not 0 < p <= 1:
            raise ValueError(f"p must be in (0, 1], not {p}")
        self.p = p

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        ordered, index = logits.sort(dim=-1)  # ascending: what goes is at the front
        gone = ordered.softmax(-1).cumsum(-1) <= 1 - self.p
        gone[:, -1] = False
        logits.masked_fill_(torch.zeros_like(gone).scatter(1, index, gone), -torch.inf)


class MinP:
    """Choose among the tokens whose probability is at least `p` times that of the likeliest (arXiv:2407.01082)."""

    def __init__(self, p: float) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], not {p}")
        self.p = p

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        probability = logits.softmax(-1)
        logits.masked_fill_(probability < self.p * probability.amax(-1, keepdim=True), -torch.inf)


class Temperature:
    """Divide by the temperature, for the rules that come behind it: `TopP` and `MinP` look at probabilities."""

    def __init__(self, temperature: float) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}: use most_likely for 0")
        self.temperature = temperature

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        logits.div_(self.temperature)


def most_likely(logits: Tensor) -> Tensor:
    """The most likely token of each row: (B, V) -> (B,). The lowest id wins a tie."""
    return logits.argmax(dim=-1)


class Sample:
    """Draw each row's token from ``softmax(logits / temperature)``.

    `temperature` > 0; `generator` makes the draws repeatable and must live on the logits' device.
    """

    def __init__(self, temperature: float = 1.0, generator: torch.Generator | None = None) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}: use most_likely for 0")
        self.temperature = temperature
        self.generator = generator

    def __call__(self, logits: Tensor) -> Tensor:
        probabilities = (logits / self.temperature).softmax(dim=-1)
        return torch.multinomial(probabilities, num_samples=1, generator=self.generator)[:, 0]


class Drawn:
    """As :class:`Sample`, with draws that the caller makes, of each row's own: then a row is the same in any batch.

    Made anew for each call of `generate`.

    Args:
        draws: makes of a step's number, from 0, a number in [0, 1) for each row: (B,).
        temperature: above 0.
    """

    def __init__(self, draws: Callable[[int], Tensor], temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}: use most_likely for 0")
        self.draws = draws
        self.temperature = temperature
        self.step = 0

    def __call__(self, logits: Tensor) -> Tensor:
        draws = self.draws(self.step).to(logits.device, torch.float64)
        self.step += 1
        return drawn_from((logits.double() / self.temperature).softmax(dim=-1), draws)


def drawn_from(weights: Tensor, draws: Tensor) -> Tensor:
    """A token of each row by its weights (B, V), of any sum, where `draws` (B,) in [0, 1) fall among them: (B,).

    Both are float64. A token of weight 0 is never drawn.
    """
    total = weights.cumsum(dim=-1)
    # scaled by the last sum, which rounding may leave below 1
    return torch.searchsorted(total, draws[:, None] * total[:, -1:], right=True)[:, 0]
