"""Temperature, top-k, top-p and min-p: exact probabilities, and draws that follow them."""

import pytest
import torch
from torch import Tensor

from core.generate import Drawn, MinP, Rule, StopTexts, Temperature, TopK, TopP, generate

LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0]])
COUNT = 20_000


def exact(temperature: float, k: int | None, p: float | None, least: float | None) -> Tensor:
    """By the definitions, one token at a time."""
    chance = (LOGITS[0].double() / temperature).softmax(0)
    kept = list(range(len(chance)))  # the logits are in order
    if k is not None:
        kept = kept[:k]
    if p is not None:
        share = chance[kept] / chance[kept].sum()
        kept = [token for number, token in enumerate(kept) if share[:number].sum() < p]
    if least is not None:
        kept = [token for token in kept if chance[token] >= least * chance[0]]
    found = torch.zeros_like(chance)
    found[kept] = chance[kept] / chance[kept].sum()
    return found


@pytest.mark.parametrize(
    ("temperature", "k", "p", "least"),
    [(1.0, None, None, None), (0.6, 4, None, None), (1.5, None, 0.8, None), (1.0, None, None, 0.2), (1.3, 5, 0.9, 0.1)],
)
def test_draws_follow_exact_probabilities(
    temperature: float, k: int | None, p: float | None, least: float | None
) -> None:
    rules: list[Rule] = [Temperature(temperature)]
    rules += [kind(value) for kind, value in ((TopK, k), (TopP, p), (MinP, least)) if value is not None]  # type: ignore
    wanted = exact(temperature, k, p, least)
    logits = LOGITS.clone()
    for rule in rules:
        rule(logits, torch.empty(1, 0, dtype=torch.long))
    torch.testing.assert_close(logits[0].double().softmax(0), wanted, atol=1e-6, rtol=1e-5)

    draws = torch.rand(COUNT, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = lambda tokens: LOGITS.expand(len(tokens), 1, -1).clone()  # noqa: E731
    found = generate(step, torch.zeros(COUNT, 1, dtype=torch.long), stop=-1, limit=1, rules=rules,
                     choose=Drawn(lambda number: draws))  # fmt: skip
    counts = torch.bincount(torch.tensor([h.tokens[0] for h in found]), minlength=7).double()
    assert counts[wanted == 0].sum() == 0
    possible = wanted > 0
    chi2 = ((counts - wanted * COUNT)[possible] ** 2 / (wanted * COUNT)[possible]).sum()
    assert chi2 < 24, chi2  # 6 degrees of freedom at most: p = 5e-4


def test_stop_texts() -> None:
    stops = StopTexts(["END", "\n\n"])
    assert stops.cut("a END b") == "a "
    assert stops.cut("a\n\nEND") == "a"
    assert stops.cut("a") == "a"
    assert stops.settled("a E") == "a "
    assert stops.settled("a EN") == "a "
    assert stops.settled("a\n") == "a"
    assert stops.settled("a EX") == "a EX"
    assert stops.bytes == 3
    with pytest.raises(ValueError, match="empty"):
        StopTexts([""])


@pytest.mark.parametrize("make", [lambda: MinP(1.5), lambda: Temperature(0.0)])
def test_what_makes_no_sense(make: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()  # type: ignore[operator]
