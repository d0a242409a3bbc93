"""Guards against repetition equal transformers' processors, and hold in every loop."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from core.generate import AfterPrompt, NoRepeatNGram, RepetitionPenalty, Rule, Sample, Suppress, beam_search, generate

VOCAB = 6


class Table:
    """A language model whose logits follow from the last two tokens; reads everything again at each step."""

    def __init__(self, seed: int = 0, stop: float = 0.0) -> None:
        weights = torch.randn(VOCAB, VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.table = 2 * weights
        self.table[..., 0] += stop
        self.seen: Tensor | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        before = 0 if self.seen is None else self.seen.shape[1]
        self.seen = tokens if self.seen is None else torch.cat([self.seen, tokens], 1)
        padded = torch.nn.functional.pad(self.seen, (1, 0))
        return self.table[padded[:, :-1], padded[:, 1:]][:, before:].clone()

    def reorder(self, rows: Tensor) -> None:
        assert self.seen is not None
        self.seen = self.seen[rows]


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 4.0])
@pytest.mark.parametrize("length", [0, 1, 7])
def test_repetition_penalty_equals_transformers(penalty: float, length: int) -> None:
    tokens = torch.randint(20, (5, length))
    logits = torch.randn(5, 20)
    logits[:, 3] = -torch.inf
    expected = RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits.clone())
    RepetitionPenalty(penalty)(logits, tokens)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [0, 1, 2, 4, 30])
def test_n_grams_equal_transformers(size: int, length: int) -> None:
    tokens = torch.randint(3, (8, length))
    logits = torch.randn(8, 4)
    expected = NoRepeatNGramLogitsProcessor(size)(tokens, logits.clone())
    NoRepeatNGram(size)(logits, tokens)
    assert torch.equal(logits, expected)


def test_the_prompt_counts_if_asked() -> None:
    prompt, tokens = torch.randint(9, (3, 4)), torch.randint(9, (6, 5))
    logits = torch.randn(6, 9)
    whole = torch.cat([prompt.repeat_interleave(2, 0), tokens], 1)
    expected = NoRepeatNGramLogitsProcessor(2)(whole, RepetitionPenaltyLogitsProcessor(1.5)(whole, logits.clone()))
    for rule in [RepetitionPenalty(1.5), NoRepeatNGram(2)]:
        AfterPrompt(rule, prompt)(logits, tokens)
    assert torch.equal(logits, expected)


def has_twins(tokens: list[int], size: int) -> bool:
    runs = [tuple(tokens[n : n + size]) for n in range(len(tokens) - size + 1)]
    return len(set(runs)) < len(runs)


@pytest.mark.parametrize("beams", [0, 1, 3])
def test_no_loop_repeats_a_run(beams: int) -> None:
    prompt, rules = torch.randint(VOCAB, (4, 2)), [NoRepeatNGram(2)]
    table = partial(Table, stop=-4.0)  # unlikely, but possible where nothing else is left
    if beams:
        found = beam_search(table(), prompt, stop=0, limit=25, beams=beams, rules=rules)
    else:
        found = generate(table(), prompt, stop=0, limit=25, rules=rules, choose=Sample(2.0))
    assert max(len(row.tokens) for row in found) > 5
    assert not any(has_twins(row.tokens, 2) for row in found)
    assert any(has_twins(row.tokens, 2) for row in generate(table(), prompt, stop=0, limit=25))


def test_beams_under_guards_find_the_best_of_all_texts() -> None:
    """Wide enough, a beam search is exhaustive: the best of all texts, each weighed by transformers' processors."""
    limit, size, penalty = 4, 2, 1.4
    for seed in range(2):
        prompt = torch.randint(VOCAB, (1, 2))
        rules: list[Rule] = [RepetitionPenalty(penalty), NoRepeatNGram(size), Suppress([0])]
        found = beam_search(Table(seed), prompt, stop=VOCAB, limit=limit, beams=VOCAB**3, rules=rules)[0]
        weights: dict[tuple[int, ...], float] = {}
        for text in itertools.product(range(VOCAB), repeat=limit):
            rows = torch.tensor([[*prompt[0].tolist(), *text]])
            logits, total = Table(seed)(rows)[0, 1:-1], 0.0
            for n in range(limit):
                before, row = torch.tensor([text[:n]], dtype=torch.long), logits[n][None]
                row = RepetitionPenaltyLogitsProcessor(penalty)(before, row)
                row = NoRepeatNGramLogitsProcessor(size)(before, row)
                row[:, 0] = -torch.inf
                total += row.log_softmax(-1)[0, text[n]].item()
            weights[text] = total if not math.isnan(total) else -math.inf
        best = max(weights, key=lambda text: weights[text])
        assert found.tokens == list(best)
        assert found.logprob == pytest.approx(weights[best], abs=1e-5)


def test_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="above 0, not 0"):
        RepetitionPenalty(0)
    with pytest.raises(ValueError, match="1 or more tokens, not 0"):
        NoRepeatNGram(0)
