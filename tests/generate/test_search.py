"""Generation equals that of transformers, on a small GPT-2 of random weights."""

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from core.generate import ForcePrefix, Hypothesis, Rule, Sample, Suppress, SuppressAtBegin, generate

VOCAB = 60


class GPT2Step:
    """transformers' model and cache as our engine calls them."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        self.model = model
        self.cache = None
        self.fed: list[int] = []
        self.rows: list[int] = []

    def __call__(self, tokens: Tensor) -> Tensor:
        out = self.model(tokens, past_key_values=self.cache, use_cache=True)
        self.cache = out.past_key_values
        self.fed.append(tokens.shape[1])
        self.rows.append(tokens.shape[0])
        return out.logits

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)


@pytest.fixture(scope="module")
def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.6)
    return GPT2LMHeadModel(config).eval()


def by_transformers(
    model: GPT2LMHeadModel, prompt: Tensor, stop: int, limit: int, **options: object
) -> list[Hypothesis]:
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=stop,
        pad_token_id=stop,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    scores = torch.stack(out.scores, 1).log_softmax(-1)  # (B, n, V), after the rules
    rows = []
    for tokens, score in zip(out.sequences[:, prompt.shape[1] :].tolist(), scores, strict=True):
        finished = stop in tokens
        end = tokens.index(stop) if finished else len(tokens)
        logprobs = [score[i, token].item() for i, token in enumerate(tokens[: end + 1])]
        rows.append(Hypothesis(tokens[:end], logprobs, finished))
    return rows


def assert_same(ours: list[Hypothesis], theirs: list[Hypothesis]) -> None:
    assert [(row.tokens, row.finished) for row in ours] == [(row.tokens, row.finished) for row in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        assert row.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
        assert row.logprob == pytest.approx(sum(expected.logprobs), abs=1e-3)


def a_stop(model: GPT2LMHeadModel, prompt: Tensor) -> int:
    """A token that some rows reach early, some late, some not at all."""
    rows = [row.tokens for row in generate(GPT2Step(model), prompt, stop=VOCAB, limit=20)]
    ends = {token: [row.index(token) if token in row else None for row in rows] for token in range(VOCAB)}
    return max(ends, key=lambda token: len(set(ends[token])))


@pytest.mark.parametrize("seed", range(4))
def test_greedy_with_rows_that_end_early(seed: int, gpt2: GPT2LMHeadModel) -> None:
    torch.manual_seed(seed)
    prompt = torch.randint(VOCAB, (8, 5))
    stop = a_stop(gpt2, prompt)
    ours = generate(GPT2Step(gpt2), prompt, stop=stop, limit=20)
    assert len({len(row.tokens) for row in ours}) > 2
    assert_same(ours, by_transformers(gpt2, prompt, stop, 20))
    step = GPT2Step(gpt2)
    assert_same(generate(step, prompt, stop=stop, limit=20, keep=step.keep), ours)
    lengths = [len(row.tokens) + row.finished for row in ours]  # with the stop token
    assert step.rows == [sum(length > n for length in lengths) for n in range(max(lengths))]
    for row, alone in zip(ours, prompt, strict=True):
        assert_same(generate(GPT2Step(gpt2), alone[None], stop=stop, limit=20), [row])


def test_rules(gpt2: GPT2LMHeadModel) -> None:
    prompt = torch.randint(VOCAB, (6, 4))
    free = generate(GPT2Step(gpt2), prompt, stop=0, limit=12)
    never = sorted({row.tokens[3] for row in free if len(row.tokens) > 3})
    not_first = sorted({row.tokens[0] for row in free if row.tokens} - set(never))
    assert never
    assert not_first
    rules: list[Rule] = [Suppress(never), SuppressAtBegin(not_first)]
    ours = generate(GPT2Step(gpt2), prompt, stop=0, limit=12, rules=rules)
    assert [row.tokens for row in ours] != [row.tokens for row in free]
    theirs = by_transformers(gpt2, prompt, 0, 12, suppress_tokens=never, begin_suppress_tokens=not_first)
    assert_same(ours, theirs)


def test_forced_prefix_continues_as_if_prompted(gpt2: GPT2LMHeadModel) -> None:
    prompt = torch.randint(1, VOCAB, (3, 4))
    forced = [7, 11, 7]
    ours = generate(GPT2Step(gpt2), prompt, stop=0, limit=10, rules=[ForcePrefix(forced)])
    longer = torch.cat([prompt, torch.tensor([forced]).expand(3, -1)], 1)
    for row, expected in zip(ours, by_transformers(gpt2, longer, 0, 7), strict=True):
        assert row.tokens == forced + expected.tokens
        assert row.logprobs == pytest.approx([0.0, 0.0, 0.0, *expected.logprobs], abs=1e-4)


def test_each_token_is_fed_once(gpt2: GPT2LMHeadModel) -> None:
    step = GPT2Step(gpt2)
    generate(step, torch.randint(VOCAB, (2, 9)), stop=VOCAB, limit=5)
    assert step.fed == [9, 1, 1, 1, 1]  # the last token is never fed


def test_sampling_follows_the_distribution(gpt2: GPT2LMHeadModel) -> None:
    prompt = torch.randint(VOCAB, (1, 4))
    draws, temperature = 5_000, 0.7
    with torch.inference_mode():
        expected = (gpt2(prompt).logits[0, -1].double() / temperature).softmax(-1)
    choose = Sample(temperature, torch.Generator().manual_seed(1))
    rows = generate(GPT2Step(gpt2), prompt.expand(draws, -1), stop=VOCAB, limit=1, choose=choose)
    counts = torch.bincount(torch.tensor([row.tokens[0] for row in rows]), minlength=VOCAB)
    deviation = (expected * (1 - expected) / draws).sqrt()
    assert ((counts / draws - expected).abs() <= 5 * deviation + 1e-9).all()
    again = Sample(temperature, torch.Generator().manual_seed(1))
    assert rows[:50] == generate(GPT2Step(gpt2), prompt.expand(draws, -1), stop=VOCAB, limit=1, choose=again)[:50]


def test_suppressed_tokens_are_never_drawn(gpt2: GPT2LMHeadModel) -> None:
    prompt = torch.randint(VOCAB, (64, 2))
    rows = generate(GPT2Step(gpt2), prompt, stop=0, limit=8, rules=[Suppress(range(30))], choose=Sample(5.0))
    assert {token for row in rows for token in row.tokens} <= set(range(30, VOCAB))
    assert not any(row.finished for row in rows)


def test_nothing_to_generate(gpt2: GPT2LMHeadModel) -> None:
    prompt = torch.randint(VOCAB, (2, 3))
    assert generate(GPT2Step(gpt2), prompt, stop=0, limit=0) == [Hypothesis([], [], finished=False)] * 2
    with pytest.raises(ValueError, match=r"prompt must be \(B, L\)"):
        generate(GPT2Step(gpt2), prompt[:, :0], stop=0, limit=4)
    with pytest.raises(ValueError, match="above 0, not 0"):
        Sample(0)
