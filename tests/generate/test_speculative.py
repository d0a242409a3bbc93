"""A draft changes the speed only: the same text greedily, the same distribution when drawn."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn

from core.data.order import keys, uniforms
from core.generate import MinLength, NoRepeatNGram, Rejection, Rule, Suppress, generate, speculate
from core.nn import (
    Block,
    Cache,
    Causal,
    Ctx,
    Growing,
    LayerNorm,
    LearnedPositions,
    Mlp,
    Residual,
    Ring,
    Stack,
    Static,
    attention,
)

VOCAB = 30
THOROUGH = pytest.mark.thorough


class Model(nn.Module):
    """A small language model on our blocks."""

    def __init__(self, seed: int, dim: int = 32, layers: int = 2, vocab: int = VOCAB) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, dim), LearnedPositions(96, dim)
        self.blocks = Stack(
            Block(
                attn=Residual(LayerNorm(dim), attention(dim, 2, mask=Causal())), mlp=Residual(LayerNorm(dim), Mlp(dim))
            )
            for _ in range(layers)
        )
        self.out = nn.Linear(dim, vocab, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4, generator=generator)
        self.double().eval()

    def forward(self, tokens: Tensor, cache: Cache) -> Tensor:
        x = self.positions(self.tokens(tokens), start=int(cache.length))
        return self.out(self.blocks(x, Ctx(cache=cache)).x)


class CachedStep:
    """The model as our engine calls it; counts the passes."""

    def __init__(self, model: Model, slot=Growing) -> None:
        self.model, self.cache = model, model.blocks.cache(slot)
        self.passes = 0

    def __call__(self, tokens: Tensor) -> Tensor:
        self.passes += 1
        return self.model(tokens, self.cache)

    def rewind(self, length: int) -> None:
        self.cache.truncate(length)


def a_stop(model: Model, prompt: Tensor) -> int:
    """A token that some rows reach early, some late, some not at all."""
    rows = [row.tokens for row in generate(CachedStep(model), prompt, stop=VOCAB, limit=24)]
    ends = {token: [row.index(token) if token in row else None for row in rows] for token in range(VOCAB)}
    return max(ends, key=lambda token: len(set(ends[token])))


SLOTS = {"growing": Growing, "small": lambda: Growing(room=2), "static": lambda: Static(96)}


def ways() -> list:
    """By default all lengths of drafts with one kind of slot, and two with the others."""
    return [
        pytest.param(
            ahead, slot, rows, marks=() if slot == "growing" or (ahead, rows) in ((2, 5), (40, 1)) else THOROUGH
        )
        for ahead in (1, 2, 5, 40)
        for slot in SLOTS
        for rows in (1, 5)
    ]


@pytest.mark.parametrize(("ahead", "slot", "rows"), ways())
def test_the_text_is_that_of_greedy_decoding(ahead: int, slot: str, rows: int) -> None:
    chosen: set[int] = set()
    for seed in range(4):
        model, draft = Model(seed), Model(seed + 100, dim=8, layers=1)
        prompt = torch.randint(VOCAB, (rows, 3))
        stop = a_stop(model, prompt) if rows > 1 else VOCAB - 1
        rules: list[Rule] = [NoRepeatNGram(2), Suppress([3]), MinLength(stop, 2)]
        expected = generate(CachedStep(model), prompt, stop=stop, limit=24, rules=rules)
        found = speculate(
            CachedStep(model, SLOTS[slot]),
            CachedStep(draft, SLOTS[slot]),
            prompt,
            stop=stop,
            limit=24,
            ahead=ahead,
            rules=rules,
        )
        assert [(row.tokens, row.finished) for row in found] == [(row.tokens, row.finished) for row in expected]
        chosen |= {token for row in found for token in row.tokens}
        for ours, plain in zip(found, expected, strict=True):
            assert ours.logprobs == pytest.approx(plain.logprobs, abs=1e-5)
    assert len(chosen) > 12


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 20])
def test_a_perfect_draft_saves_passes(limit: int) -> None:
    model, prompt = Model(0), torch.randint(VOCAB, (1, 3))
    step, draft = CachedStep(model), CachedStep(model)
    found = speculate(step, draft, prompt, stop=VOCAB, limit=limit, ahead=4)
    assert found == [plain for plain in found if len(plain.tokens) == limit]
    assert found[0].tokens == generate(CachedStep(model), prompt, stop=VOCAB, limit=limit)[0].tokens
    assert step.passes == -(-limit // 5)  # four drafted tokens and the one after them


class Chain:
    """Tokens that follow from the last one only, by a table of logits (V, V)."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.logits[tokens].clone()

    def rewind(self, length: int) -> None:
        pass


@pytest.mark.parametrize(
    ("temperature", "ahead", "alike"),
    [
        (0.6, 1, 0.0),
        (1.0, 3, 0.0),
        (1.0, 1, 0.9),
        (0.6, 3, 0.9),
        pytest.param(1.0, 1, 0.0, marks=THOROUGH),
        pytest.param(0.6, 3, 0.0, marks=THOROUGH),
        pytest.param(0.6, 1, 0.9, marks=THOROUGH),
        pytest.param(1.0, 3, 0.9, marks=THOROUGH),
    ],
)
def test_drawn_texts_follow_the_models_distribution(temperature: float, ahead: int, alike: float) -> None:
    """Against the exact probability of every text of four tokens, of a vocabulary of four with a stop token."""
    vocab, stop, limit, count = 4, 3, 4, 40_000
    generator = torch.Generator().manual_seed(ahead)
    large = 1.5 * torch.randn(vocab, vocab, generator=generator, dtype=torch.float64)
    small = alike * large + (1 - alike) * 1.5 * torch.randn(vocab, vocab, generator=generator, dtype=torch.float64)
    small[:, 1] = -torch.inf  # never drafted, yet to be drawn
    large[2, 0] = -torch.inf  # drafted, yet never to be drawn
    names = keys(5, 0, np.arange(count))
    judge = Rejection(lambda n: torch.from_numpy(uniforms(names, n + 1)[:, -1]), temperature)
    prompt = torch.zeros(count, 1, dtype=torch.long)
    found = speculate(Chain(large), Chain(small), prompt, stop=stop, limit=limit, ahead=ahead, judge=judge)
    counts = Counter((*row.tokens, *([stop] if row.finished else [])) for row in found)
    steps = (large / temperature).softmax(-1)
    exact: dict[tuple[int, ...], float] = {}
    for text in itertools.product(range(vocab), repeat=limit):
        end = text.index(stop) + 1 if stop in text else limit
        path = (0, *text[:end])
        exact[text[:end]] = float(np.prod([steps[a, b].item() for a, b in itertools.pairwise(path)]))
    assert sum(exact.values()) == pytest.approx(1.0)
    assert not [text for text in counts if exact[text] == 0]
    likely = [text for text in exact if exact[text] * count >= 5]
    seen = np.array([*(counts[text] for text in likely), count - sum(counts[text] for text in likely)], dtype=float)
    expected = np.array([*(exact[text] for text in likely), 1 - sum(exact[text] for text in likely)]) * count
    if expected[-1] < 5:  # too few to judge by
        seen, expected = seen[:-1], expected[:-1] * seen[:-1].sum() / expected[:-1].sum()
    assert chisquare(seen, expected).pvalue > 1e-3


def test_a_drawn_row_is_the_same_in_any_company() -> None:
    model, draft, prompt = Model(1), Model(101, dim=8, layers=1), torch.randint(VOCAB, (6, 3))

    def draw(rows: list[int], ahead: int) -> list[list[int]]:
        names = keys(3, 0, np.array(rows))
        judge = Rejection(lambda n: torch.from_numpy(uniforms(names, n + 1)[:, -1]), 6.0)
        steps = CachedStep(model), CachedStep(draft)
        return [row.tokens for row in speculate(*steps, prompt[rows], stop=0, limit=12, ahead=ahead, judge=judge)]

    together = draw(list(range(6)), 4)
    assert len(set(map(tuple, together))) > 4
    assert together == [draw([row], 4)[0] for row in range(6)] == [draw([row], 2)[0] for row in range(6)]


def test_what_cannot_be_rewound_says_so() -> None:
    model, prompt = Model(0), torch.randint(VOCAB, (1, 3))
    steps = CachedStep(model, lambda: Ring(8)), CachedStep(Model(7), lambda: Ring(8))
    with pytest.raises(TypeError, match="a Ring slot can't be truncated"):
        speculate(*steps, prompt, stop=VOCAB, limit=8)
    with pytest.raises(ValueError, match="ahead >= 1"):
        speculate(*steps, prompt, stop=VOCAB, limit=8, ahead=0)
    with pytest.raises(ValueError, match="use Agreement for 0"):
        Rejection(lambda n: torch.zeros(1), 0.0)
