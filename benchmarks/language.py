"""A decoder of SmolLM2-135M's shape with random weights against transformers: prefill, decoding, many requests.

    python -m benchmarks.language [--repeats 9] [--threads 2]

All have the same weights. sensorium is `multimodal.compiled_decoder`, against transformers in the same precision, or
8-bit integers against its bfloat16. Tokens are greedy. In the last jobs 16 requests of mixed length share the steps
(`core.generate.batching`), against the same decoder that serves them one after the other.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import Case, Contender, main, options
from core.generate import Batching, Request
from core.nn import Ctx
from multimodal.compiled_decoder import CompiledDecoder
from multimodal.decoder import Decoder, DecoderConfig
from multimodal.decoder_names import llama

PROMPT, TOKENS, PREFILL, REQUESTS = 32, 64, 512, 16
SHAPE = DecoderConfig()  # SmolLM2-135M's


class Models(NamedTuple):
    """The same weights in each implementation."""

    floats: CompiledDecoder
    integers: CompiledDecoder
    theirs: Any
    theirs_halved: Any


@cache
def models() -> Models:
    """Random weights, whose logits are as wide as those of trained ones."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SHAPE.vocab,
        hidden_size=SHAPE.dim,
        intermediate_size=1536,
        num_hidden_layers=SHAPE.depth,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=3,
        max_position_embeddings=SHAPE.context,
        rope_parameters={"rope_type": "default", "rope_theta": SHAPE.theta},
        rms_norm_eps=SHAPE.eps,
        tie_word_embeddings=True,
        initializer_range=0.04,
    )
    theirs = LlamaForCausalLM(config).eval()
    weights = llama(SHAPE).load(theirs.state_dict())

    def ours(precision: Any) -> CompiledDecoder:
        decoder = Decoder(SHAPE)
        decoder.load_state_dict(weights)
        return CompiledDecoder(decoder, precision)

    halved = LlamaForCausalLM(config).eval()
    halved.load_state_dict(theirs.state_dict())
    return Models(ours("float32"), ours("int8"), theirs, halved.to(torch.bfloat16))


def prompt(length: int, seed: int = 1) -> Tensor:
    """Tokens (L,)."""
    return torch.randint(SHAPE.vocab, (length,), generator=torch.Generator().manual_seed(seed))


def written(model: CompiledDecoder, text: Tensor, limit: int = TOKENS) -> list[int]:
    """Greedy tokens."""
    cache, fed, found = model.cache(), text[None], []
    for _ in range(limit):
        states = model.states(fed, Ctx(cache=cache)).x
        fed = model.logits(states[:, -1]).argmax(-1, keepdim=True)
        found.append(int(fed))
    return found


def written_by_theirs(model: Any, text: Tensor, limit: int = TOKENS) -> list[int]:
    """Greedy tokens, without what `generate` of transformers spends between two steps."""
    from transformers import DynamicCache

    cache, fed, found = DynamicCache(config=model.config), text[None], []
    for _ in range(limit):
        logits = model(fed, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        fed = logits[:, -1].argmax(-1, keepdim=True)
        found.append(int(fed))
    return found


def decode_float32() -> Case:
    """64 tokens after 32, float32; the texts are the same."""
    every, text = models(), prompt(PROMPT)
    return _decode(
        "float32",
        [
            Contender("sensorium", lambda: written(every.floats, text)),
            Contender("transformers", lambda: written_by_theirs(every.theirs, text)),
        ],
        tolerance=0.0,
    )


def decode_integers() -> Case:
    """The same, 8-bit integers against bfloat16, whose texts differ from float32 and each other."""
    every, text = models(), prompt(PROMPT)
    return _decode(
        "8-bit weights against bfloat16",
        [
            Contender("sensorium int8", lambda: written(every.integers, text)),
            Contender("transformers bf16", lambda: written_by_theirs(every.theirs_halved, text)),
        ],
        tolerance=1e9,
    )


def _decode(what: str, contenders: Sequence[Contender], tolerance: float) -> Case:
    job = f"{TOKENS} tokens after {PROMPT}, {what}"
    return Case(job, contenders, unit="ms/token", items=TOKENS, tolerance=tolerance)


def prefill_float32() -> Case:
    """The logits after 512 tokens, float32."""
    every, text = models(), prompt(PREFILL)[None]
    return Case(
        f"prefill of {PREFILL} tokens, float32",
        [
            Contender("sensorium", lambda: _after(every.floats, text)),
            Contender("transformers", lambda: every.theirs(text, use_cache=True, logits_to_keep=1).logits[:, -1]),
        ],
        tolerance=1e-4,
    )


def prefill_integers() -> Case:
    """The same, 8-bit weights against bfloat16: both checked against float32."""
    every, text = models(), prompt(PREFILL)[None]

    def theirs(model: Any) -> Tensor:
        found: Tensor = model(text, use_cache=True, logits_to_keep=1).logits[:, -1]
        return found

    return Case(
        f"prefill of {PREFILL} tokens, 8-bit weights against bfloat16",
        [
            Contender("sensorium int8", lambda: _after(every.integers, text), tolerance=0.15),
            Contender("transformers bf16", lambda: theirs(every.theirs_halved), tolerance=0.5),
            Contender("transformers float32", lambda: theirs(every.theirs)),
        ],
        reference=2,
    )


def _after(model: CompiledDecoder, text: Tensor) -> Tensor:
    states = model.states(text, Ctx(cache=model.cache())).x
    return model.logits(states[:, -1])


def sixteen_requests_float32() -> Case:
    """16 requests of mixed length, float32."""
    return _requests("float32", models().floats)


def sixteen_requests_integers() -> Case:
    """16 requests of mixed length, 8-bit weights."""
    return _requests("8-bit weights", models().integers)


def _requests(what: str, model: CompiledDecoder) -> Case:
    every = models()
    lengths = torch.randint(8, 96, (REQUESTS,), generator=torch.Generator().manual_seed(2)).tolist()
    limits = torch.randint(8, 33, (REQUESTS,), generator=torch.Generator().manual_seed(3)).tolist()
    texts = [prompt(length, seed) for seed, length in enumerate(lengths)]

    def together() -> list[int]:
        found = Batching(model).run([Request(text, limit) for text, limit in zip(texts, limits, strict=True)])
        return [token for one in found for token in one.tokens]

    def one_by_one() -> list[int]:
        return [token for text, limit in zip(texts, limits, strict=True) for token in written(model, text, limit)]

    def theirs() -> list[int]:
        kind = every.theirs if model is every.floats else every.theirs_halved
        pairs = zip(texts, limits, strict=True)
        return [token for text, limit in pairs for token in written_by_theirs(kind, text, limit)]

    name = "transformers" if model is every.floats else "transformers bf16"
    return Case(
        f"{REQUESTS} requests of mixed length, {what}",
        [
            Contender("sensorium, continuous batching", together),
            Contender("the same decoder, one after the other", one_by_one),
            Contender(f"{name}, one after the other", theirs, tolerance=0.0 if model is every.floats else 1e9),
        ],
        unit="tokens/s",
        items=sum(limits),
        tolerance=0.0,
    )


if __name__ == "__main__":
    main(
        "language",
        [
            decode_float32,
            decode_integers,
            prefill_float32,
            prefill_integers,
            sixteen_requests_float32,
            sixteen_requests_integers,
        ],
        options(__doc__),
    )
