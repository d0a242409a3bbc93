"""Beam search, top-k and top-p against transformers, on small random language models."""

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, TopKLogitsWarper, TopPLogitsWarper

from core.generate import FirstFinished, MinLength, NothingBetter, Rule, TopK, TopP, beam_search, generate


class _Step:
    """A language model of transformers that reads everything again at each step."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        self.model = model
        self.seen: Tensor | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        self.seen = tokens if self.seen is None else torch.cat([self.seen, tokens], 1)
        return self.model(self.seen).logits

    def reorder(self, rows: Tensor) -> None:
        assert self.seen is not None
        self.seen = self.seen[rows]


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=11, n_positions=40, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5)
    return GPT2LMHeadModel(config).eval()


def with_penalties() -> list:
    """Any number of beams with any penalty; by default a least length with four of them only."""
    return [
        pytest.param(beams, penalty, least, marks=() if least == 0 or beams == 4 else pytest.mark.thorough)
        for beams in (1, 2, 4, 5)
        for penalty in (0.0, 1.0, 2.0)
        for least in (0, 4)
    ]


@pytest.mark.parametrize(("beams", "penalty", "least"), with_penalties())
def test_equals_transformers(model: GPT2LMHeadModel, beams: int, penalty: float, least: int) -> None:
    prompt = torch.randint(1, 11, (16, 3))
    limit, stop = 12, 0
    theirs = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        num_beams=beams,
        do_sample=False,
        max_new_tokens=limit,
        min_new_tokens=least or None,
        eos_token_id=stop,
        pad_token_id=stop,
        length_penalty=penalty,
        renormalize_logits=True,
        return_dict_in_generate=True,
        output_scores=True,
    )
    rules: list[Rule] = [MinLength(stop, least)]
    finish = partial(NothingBetter, length_penalty=penalty)
    found = beam_search(_Step(model), prompt, stop=stop, limit=limit, beams=beams, rules=rules, finish=finish)
    lengths = set()
    for number, (row, mine) in enumerate(zip(theirs.sequences[:, 3:].tolist(), found, strict=True)):
        expected = row[: row.index(stop)] if stop in row else row
        assert mine.tokens == expected
        assert mine.finished == (len(expected) < limit)
        lengths.add(len(expected))
        if beams > 1:
            score = mine.logprob / len(mine.logprobs) ** penalty
            assert score == pytest.approx(theirs.sequences_scores[number].item(), abs=1e-4)
    assert len(lengths) > 2 or penalty != 1.0  # texts of several lengths were compared


def with_patience() -> list:
    """Any number of beams with any patience; by default not with every penalty, and few that have to be short."""
    cases = []
    for case in itertools.product((1, 2, 5), (0.6, 1.0, 2.0), (None, 0.0, 0.7), (3, 12)):
        beams, _, penalty, limit = case
        default = penalty != 0.0 if limit == 12 else (beams, penalty) == (5, None)
        cases.append(pytest.param(*case, marks=() if default else pytest.mark.thorough))
    return cases


@pytest.mark.parametrize(("beams", "patience", "penalty", "limit"), with_patience())
def test_the_first_finished_equal_openai(
    model: GPT2LMHeadModel, beams: int, patience: float, penalty: float | None, limit: int
) -> None:
    prompt = torch.randint(1, 11, (8, 3))
    finish = partial(FirstFinished, patience=patience, length_penalty=penalty)
    rules: list[Rule] = [MinLength(0, 1)]
    found = beam_search(_Step(model), prompt, stop=0, limit=limit, beams=beams, rules=rules, finish=finish)
    lengths = set()
    for row, mine in zip(prompt, found, strict=True):
        tokens, logprob = _of_openai(model, row, beams, patience, penalty, limit)
        assert mine.tokens == tokens
        assert mine.logprob == pytest.approx(logprob, abs=1e-4)
        lengths.add(len(tokens))
    assert len(lengths) > 1 or limit == 3


@torch.no_grad()
def _of_openai(
    model: GPT2LMHeadModel, prompt: Tensor, beams: int, patience: float, penalty: float | None, limit: int
) -> tuple[list[int], float]:
    """openai-whisper's decoder and ranker over the same model, for one row; the stop token is 0, never the first."""
    from whisper.decoding import BeamSearchDecoder, MaximumLikelihoodRanker

    class Inference:
        def rearrange_kv_cache(self, rows: list[int]) -> None:
            return

    decoder = BeamSearchDecoder(beams, 0, Inference(), patience)  # type: ignore[arg-type]
    tokens, scores = prompt.expand(beams, -1), torch.zeros(beams)
    for _ in range(limit):
        logits = model(tokens).logits[:, -1]
        if tokens.shape[1] == len(prompt):
            logits[:, 0] = -torch.inf
        tokens, completed = decoder.update(tokens, logits, scores)
        if completed:
            break
    found, logprobs = decoder.finalize(tokens.reshape(1, beams, -1), scores.reshape(1, beams))
    texts = [[t[len(prompt) : (t == 0).nonzero()[0, 0]] for t in each] for each in found]
    best = MaximumLikelihoodRanker(penalty).rank(texts, logprobs)[0]
    return texts[0][best].tolist(), logprobs[0][best]


def test_one_beam_is_greedy(model: GPT2LMHeadModel) -> None:
    prompt = torch.randint(1, 11, (8, 2))
    greedy = generate(_Step(model), prompt, stop=0, limit=10)
    beam = beam_search(_Step(model), prompt, stop=0, limit=10, beams=1)
    assert [h.tokens for h in beam] == [h.tokens for h in greedy]
    torch.testing.assert_close([h.logprob for h in beam], [h.logprob for h in greedy])


def test_finds_the_likeliest_of_all(model: GPT2LMHeadModel) -> None:
    """With as many beams as there are beginnings, nothing can be missed."""
    prompt = torch.tensor([[5, 7]])
    found = beam_search(
        _Step(model), prompt, stop=0, limit=3, beams=11 * 11, finish=partial(NothingBetter, length_penalty=0.0)
    )[0]
    texts = torch.cartesian_prod(*[torch.arange(11)] * 3)
    whole = torch.cat([prompt.expand(len(texts), -1), texts], 1)
    with torch.no_grad():
        logprobs = model(whole).logits.log_softmax(-1)[:, 1:-1].gather(2, texts[..., None])[..., 0]
    ended = torch.cumsum(texts == 0, 1) - (texts == 0).long() > 0  # after the first stop token
    best = logprobs.masked_fill(ended, 0).sum(1).max()
    assert found.logprob == pytest.approx(best.item(), abs=1e-5)


@pytest.mark.parametrize("k", [1, 3, 50])
def test_top_k(k: int) -> None:
    logits = torch.randn(6, 20)
    logits[:, 3] = logits[:, 7]
    expected = TopKLogitsWarper(k)(torch.zeros(6, 1), logits.clone())
    TopK(k)(logits, torch.zeros(6, 0, dtype=torch.long))
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
def test_top_p(p: float) -> None:
    logits = 3 * torch.randn(6, 20)
    expected = TopPLogitsWarper(p)(torch.zeros(6, 1), logits.clone())
    TopP(p)(logits, torch.zeros(6, 0, dtype=torch.long))
    assert torch.equal(logits, expected)


def test_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="k must be"):
        TopK(0)
    with pytest.raises(ValueError, match="p must be"):
        TopP(0.0)
    with pytest.raises(ValueError, match="beams"):
        beam_search(_Step, torch.zeros(1, 1), stop=0, limit=1, beams=0)  # type: ignore[arg-type]
