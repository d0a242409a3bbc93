"""Requests that run together are given what they are given alone."""

from collections.abc import Sequence

import pytest
import torch

from core.errors import InputError
from core.generate import Batching, RepetitionPenalty, Request, Sample, generate
from core.nn import Ctx
from multimodal.decoder import Decoder, DecoderConfig

VOCAB = 61


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    config = DecoderConfig(vocab=VOCAB, context=128, dim=24, depth=2, heads=4, kv_heads=2, hidden=48)
    model = Decoder(config).double().eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


def prompts(lengths: Sequence[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(VOCAB, (length,), generator=generator) for length in lengths]


def alone(decoder: Decoder, prompt: torch.Tensor, limit: int, stop: int = -1) -> list[int]:
    cache = decoder.cache()
    (found,) = generate(lambda new: decoder(new, Ctx(cache=cache)).x, prompt[None], stop=stop, limit=limit)
    return found.tokens


@pytest.mark.parametrize(("pages", "most"), [(None, 16), (24, 3)])
def test_mixed_lengths(decoder: Decoder, pages: int | None, most: int) -> None:
    texts = prompts([1, 5, 40, 17, 3, 16, 33, 2, 9])
    limits = [30, 1, 12, 25, 40, 3, 8, 16, 17]
    batching = Batching(decoder, pages=pages, most=most, chunk=8, page=4)
    found = batching.run([Request(text, limit) for text, limit in zip(texts, limits, strict=True)])
    for text, limit, one in zip(texts, limits, found, strict=True):
        assert one.tokens == alone(decoder, text, limit)
        assert not one.finished
        assert len(one.logprobs) == limit
        whole = torch.cat([text, torch.tensor(one.tokens)])[None]
        scores = decoder(whole).x[0, len(text) - 1 : -1].log_softmax(-1)
        expected = scores.gather(1, torch.tensor(one.tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(one.logprobs).double(), expected, atol=1e-5, rtol=1e-5)
    assert batching.pages.available == pages
    assert len(batching) == 0


def test_each_has_its_own_stop_rules_and_choice(decoder: Decoder) -> None:
    text = prompts([6])[0]
    plain = alone(decoder, text, 20)
    stop = plain[7]
    first = plain.index(stop)

    def drawn() -> Sample:
        return Sample(1.0, torch.Generator().manual_seed(5))

    requests = [
        Request(text, 20, stop={stop}),
        Request(text, 20, rules=[RepetitionPenalty(1.5)]),
        Request(text, 20, choose=drawn()),
        Request(decoder.embed(text), 20),
    ]
    stopped, penalised, sampled, embedded = Batching(decoder).run(requests)
    assert stopped.tokens == plain[:first]
    assert stopped.finished
    assert len(stopped.logprobs) == first + 1
    assert embedded.tokens == plain
    cache = decoder.cache()
    (expected,) = generate(
        lambda new: decoder(new, Ctx(cache=cache)).x, text[None], stop=-1, limit=20, rules=[RepetitionPenalty(1.5)]
    )
    assert penalised.tokens == expected.tokens
    cache = decoder.cache()
    (expected,) = generate(lambda new: decoder(new, Ctx(cache=cache)).x, text[None], stop=-1, limit=20, choose=drawn())
    assert sampled.tokens == expected.tokens


def test_short_prompts_are_read_between_two_steps(decoder: Decoder) -> None:
    batching = Batching(decoder, chunk=16)
    for text in prompts([5, 9, 3, 40]):
        batching.add(Request(text, 9))
    written = [[piece.request for piece in batching.step()] for _ in range(5)]
    # 5 + 9 of 16 tokens, 3 of 16; then of the long one 16, 16 and 8
    assert written == [[0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3]]


def test_requests_that_come_later_and_are_given_up(decoder: Decoder) -> None:
    texts = prompts([4, 7])
    batching = Batching(decoder, pages=40, page=4)
    first = batching.add(Request(texts[0], 10))
    written: dict[int, list[int]] = {first: []}
    for _ in range(3):
        for piece in batching.step():
            written[piece.request].append(piece.token)
    second, third = batching.add(Request(texts[1], 5)), batching.add(Request(texts[1], 50))
    written |= {second: [], third: []}
    for piece in batching.stream():
        written[piece.request].append(piece.token)
        if piece.request == second and len(written[second]) == 2:
            batching.cancel(third)
    assert written[first] == alone(decoder, texts[0], 10)
    assert written[second] == alone(decoder, texts[1], 5)
    assert len(written[third]) < 50
    assert batching.pages.available == 40


def test_requests_that_cannot_be_met(decoder: Decoder) -> None:
    with pytest.raises(InputError, match="limit >= 1"):
        Request(prompts([3])[0], 0)
    with pytest.raises(InputError, match="need 4 pages, the pool has 3"):
        Batching(decoder, pages=3, page=4).add(Request(prompts([3])[0], 12))
    with pytest.raises(InputError, match="at least 1"):
        Batching(decoder, most=0)
