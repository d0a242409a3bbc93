"""Compiled decoders against transformers and the exact decoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.generate import Batching, Request, beam_search, generate, speculate
from core.nn import Ctx, Pages, padded_tokens
from multimodal.compiled_decoder import CompiledDecoder, can_compile
from multimodal.decoder import Decoder, DecoderConfig
from multimodal.decoder_step import DecoderStep
from multimodal.decoder_weights import load_decoder

transformers = pytest.importorskip("transformers")

VOCAB = 67
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": None,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm2": ("Llama", {"tie_word_embeddings": True}),
    "llama biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", {"sliding_window": 5, "head_dim": 16}),
    "qwen2 yarn": ("Qwen2", {"rope_parameters": YARN, "use_sliding_window": True, "sliding_window": 9}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
}


def reference(name: str) -> nn.Module:
    kind, changes = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SMALL | changes)
    model: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    return model


@pytest.fixture(scope="module", params=list(MODELS))
def both(request: Any, tmp_path_factory: Any) -> tuple[CompiledDecoder, nn.Module, Path]:
    theirs = reference(request.param)
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    return CompiledDecoder(load_decoder(folder)[0]), theirs, folder


def texts(*shape: int) -> Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_logits_in_any_pieces(both: tuple[CompiledDecoder, nn.Module, Path]) -> None:
    ours, theirs, _ = both
    ids = texts(2, 60)
    expected = theirs(ids).logits
    cache, at, found = ours.cache(), 0, []
    for count in (1, 3, 20, 1, 1, 16, 18):
        found.append(ours(ids[:, at : at + count], Ctx(cache=cache)).x)
        at += count
    torch.testing.assert_close(torch.cat(found, 1), expected, atol=2e-5, rtol=2e-5)
    cache.truncate(30)
    cache.reorder(torch.tensor([1, 0, 1]))
    again = ours(ids[[1, 0, 1], 30:33], Ctx(cache=cache)).x
    torch.testing.assert_close(again, expected[[1, 0, 1], 30:33], atol=2e-5, rtol=2e-5)


@torch.inference_mode()
def test_greedy_texts(both: tuple[CompiledDecoder, nn.Module, Path]) -> None:
    ours, theirs, folder = both
    prompt = texts(2, 21)
    generating: Any = theirs
    expected = generating.generate(prompt, max_new_tokens=64, do_sample=False, use_cache=True)[:, 21:].tolist()
    assert [row.tokens for row in generate(DecoderStep(ours), prompt, stop=-1, limit=64)] == expected
    batching = Batching(ours, chunk=8)
    assert [row.tokens for row in batching.run([Request(row, 64) for row in prompt])] == expected
    exact = load_decoder(folder)[0]
    paged = Batching(exact, chunk=8)
    assert [row.tokens for row in paged.run([Request(row, 64) for row in prompt])] == expected
    paged_step = DecoderStep(exact, make=Pages().slot)
    assert [row.tokens for row in generate(paged_step, prompt, stop=-1, limit=64)] == expected
    drafted = speculate(DecoderStep(ours, last=5), DecoderStep(exact, last=5), prompt[:1], stop=-1, limit=64)
    assert drafted[0].tokens == expected[0]
    beams = generating.generate(prompt, max_new_tokens=20, num_beams=4, do_sample=False)[:, 21:].tolist()
    assert [row.tokens for row in beam_search(DecoderStep(ours), prompt, stop=-1, limit=20, beams=4)] == beams


@pytest.fixture(scope="module")
def exact() -> Decoder:
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(VOCAB, 256, 64, 3, heads=4, kv_heads=2, hidden=96, window=40, sinks=2)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.15)
    return model.requires_grad_(False)


def compiled(exact: Decoder, precision: Any) -> CompiledDecoder:
    copy = Decoder(exact.config)
    copy.load_state_dict(exact.state_dict())
    return CompiledDecoder(copy, precision)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_its_weights_are_not_saved_in_part(exact: Decoder, precision: str) -> None:
    with pytest.raises(TypeError, match="use the exact model"):
        compiled(exact, precision).state_dict()


@pytest.mark.parametrize("chunk", [16, 512])
@pytest.mark.parametrize("precision", ["float32", "int8"])
@torch.inference_mode()
def test_a_row_does_not_depend_on_its_company(exact: Decoder, precision: str, chunk: int) -> None:
    ours = compiled(exact, precision)
    prompts = [texts(40)[:length] for length in (3, 18, 40, 7, 29)]

    def pieces(batching: Batching, number: int) -> list[tuple[int, float]]:
        return [(piece.token, piece.logprob) for piece in batching.stream() if piece.request == number]

    together = Batching(ours, chunk=chunk)
    numbers = [together.add(Request(prompt, 20)) for prompt in prompts]
    everything: dict[int, list[tuple[int, float]]] = {number: [] for number in numbers}
    for piece in together.stream():
        everything[piece.request].append((piece.token, piece.logprob))
    for number, prompt in zip(numbers, prompts, strict=True):
        alone = Batching(ours, chunk=chunk)
        assert pieces(alone, alone.add(Request(prompt, 20))) == everything[number]  # to the bit


@torch.inference_mode()
def test_padding_is_left_out(exact: Decoder) -> None:
    ours = compiled(exact, "float32")
    ids, lengths = texts(3, 24), torch.tensor([24, 5, 18])
    tokens = padded_tokens(lengths, 24, left=True)
    step = DecoderStep(ours, lengths=lengths)
    found = step(ids)[:, -1]
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[row], exact(ids[row : row + 1, 24 - length :]).x[0, -1], atol=1e-5, rtol=1e-5)
    fed = texts(3, 4)
    torch.testing.assert_close(step(fed), step_again(step, fed), atol=1e-5, rtol=1e-5)
    states = ours.states(ids, Ctx(tokens=tokens)).x
    assert not states[1, :19].any()


def step_again(step: DecoderStep, fed: Tensor) -> Tensor:
    step.rewind(24)
    return step(fed)


@torch.inference_mode()
def test_integers_are_near(exact: Decoder) -> None:
    ours, ids = compiled(exact, "int8"), texts(4, 64)
    expected = exact(ids).x
    together = ours(ids).x
    ours.few = 16
    read = ours(ids).x
    cache = ours.cache()
    written = torch.cat([ours(ids[:, n : n + 1], Ctx(cache=cache)).x for n in range(64)], 1)
    spread = expected.std()
    rounded = Decoder(exact.config)
    rounded.load_state_dict(exact.state_dict())
    head = rounded.tokens.weight.clone()
    for layer in [module for module in rounded.modules() if isinstance(module, nn.Linear)]:
        layer.weight.data = integers(layer.weight.data)
    same = rounded.states(ids).x @ integers(head).T
    assert (written - same).pow(2).mean().sqrt() < 1e-3 * spread  # only the weights are rounded to 8 bits
    assert (together - same).pow(2).mean().sqrt() < 1e-3 * spread
    assert (read - same).pow(2).mean().sqrt() < 0.02 * spread  # long prompts' activations to bfloat16
    assert (written - expected).pow(2).mean().sqrt() < 0.05 * spread
    assert (written.argmax(-1) == expected.argmax(-1)).float().mean() > 0.95
    p, q = expected.log_softmax(-1), written.log_softmax(-1)
    assert (p.exp() * (p - q)).sum(-1).mean() < 1e-2  # Kullback-Leibler divergence


def integers(weight: Tensor) -> Tensor:
    scales = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scales).round() * scales


def test_what_is_not_compiled(exact: Decoder) -> None:
    other = Decoder(DecoderConfig(VOCAB, 32, 16, 1, heads=2, kv_heads=2, hidden=32, norm="layer"))
    assert not can_compile(other)
    with pytest.raises(InputError, match="only decoders with RMSNorm"):
        CompiledDecoder(other)
    ours = compiled(exact, "float32")
    with pytest.raises(ValueError, match="use the exact one"):
        ours(texts(1, 3), Ctx(want={0: {"attn": True}}))
    cache = ours.cache()
    ours(texts(2, 3), Ctx(cache=cache))
    with pytest.raises(ValueError, match="2 rows was given 1"):
        ours(texts(1, 3), Ctx(cache=cache))
    with pytest.raises(ValueError, match="not in a Growing slot"):
        ours(texts(1, 3), Ctx(cache=exact.cache()))
