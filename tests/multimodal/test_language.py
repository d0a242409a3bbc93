"""Texts of language models: token by token those of transformers, however they are found; what ends them; JSON."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_peers import reference, tokenizer_files
from torch import Tensor

from core.errors import InputError
from core.generate import beam_search, generate, speculate
from core.nn import Growing, Static
from multimodal import compiled_decoder
from multimodal.compiled_decoder import CompiledDecoder
from multimodal.decoder import Decoder, DecoderConfig
from multimodal.decoder_step import DecoderStep
from multimodal.decoder_weights import load_decoder
from multimodal.language import LanguageModel, load_language
from multimodal.language_tokenizer import LanguageTokenizer
from multimodal.messages import Message

NEW = 64
NEVER = 10_000
CHAT: list[Message] = [{"role": "user", "content": "a cat?"}]


@pytest.fixture(scope="module", params=["llama 3.1", "mistral", "qwen2 yarn", "qwen3", "gpt2"])
def pair(request: Any, tmp_path_factory: Any) -> tuple[Decoder, Any, Decoder]:
    """Ours, theirs, and one that drafts: the same with a little noise."""
    folder = tmp_path_factory.mktemp("model")
    theirs: Any = reference(request.param, std=0.5)  # larger weights: no loops, so that every step counts
    theirs.save_pretrained(folder)
    ours, draft = load_decoder(folder)[0], load_decoder(folder)[0]
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    theirs.generation_config.eos_token_id = None
    theirs.generation_config.pad_token_id = 0
    return ours, theirs, draft


@pytest.fixture(scope="module")
def prompt() -> Tensor:
    return torch.randint(2, 61, (2, 7), generator=torch.Generator().manual_seed(5))


def test_greedy_texts_are_theirs(pair: tuple[Decoder, Any, Decoder], prompt: Tensor) -> None:
    ours, theirs, draft = pair
    wanted = theirs.generate(prompt, max_new_tokens=NEW, do_sample=False)[:, prompt.shape[1] :].tolist()
    assert len({token for row in wanted for token in row}) > 2, "a loop would prove nothing"
    say: dict[str, Any] = {"stop": NEVER, "limit": NEW}
    whole = prompt
    with torch.inference_mode():
        for _ in range(NEW):  # without a cache
            whole = torch.cat([whole, ours(whole).x[:, -1:].argmax(-1)], 1)
    assert whole[:, prompt.shape[1] :].tolist() == wanted
    for make in (Growing, lambda: Static(prompt.shape[1] + NEW)):
        assert [h.tokens for h in generate(DecoderStep(ours, make=make), prompt, **say)] == wanted
    steps = DecoderStep(ours, last=5), DecoderStep(draft, last=5)
    assert [h.tokens for h in speculate(*steps, prompt, **say)] == wanted
    embedded = DecoderStep(ours, prompt=ours.embed(prompt))
    assert [h.tokens for h in generate(embedded, prompt, **say)] == wanted


def test_beams_are_theirs(pair: tuple[Decoder, Any, Decoder], prompt: Tensor) -> None:
    ours, theirs, _ = pair
    wanted = theirs.generate(prompt, max_new_tokens=NEW, do_sample=False, num_beams=4)[:, prompt.shape[1] :].tolist()
    found = beam_search(DecoderStep(ours), prompt, stop=NEVER, limit=NEW, beams=4)
    assert [h.tokens for h in found] == wanted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A model with a tokenizer and a chat template."""
    place = tmp_path_factory.mktemp("chat")
    reference("llama", std=0.4, vocab_size=320, max_position_embeddings=96).save_pretrained(place)
    tokenizer_files(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load_language(folder, "float32")


def test_the_fast_path_writes_the_same(folder: Path, model: LanguageModel) -> None:
    fast = LanguageModel(CompiledDecoder(load_decoder(folder)[0]), model.tokenizer, model.template)
    for settings in ({}, {"beams": 3}, {"temperature": 0.9}, {"draft": model}):
        say: dict[str, Any] = {"max_new_tokens": 24, **settings}
        assert [c.text for c in fast.generate(["the cat", "a"], **say)] == [
            c.text for c in model.generate(["the cat", "a"], **say)
        ]
    assert "".join(fast.stream(CHAT, max_new_tokens=9)) == model.chat(CHAT, max_new_tokens=9).text
    with pytest.raises(InputError, match="no precision"):
        load_language(folder, "float16")  # type: ignore[arg-type]


def test_small_models_answer_without_a_compiler(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert isinstance(LanguageModel.load(folder).decoder, Decoder)
    monkeypatch.setattr(compiled_decoder, "SMALL", 0)
    assert isinstance(LanguageModel.load(folder).decoder, CompiledDecoder)


def test_chats_of_parts(model: LanguageModel) -> None:
    parts: list[Message] = [
        {"role": "user", "content": [{"type": "text", "text": "a cat"}, {"type": "text", "text": "?"}]}
    ]
    assert model.chat(parts, max_new_tokens=5) == model.chat(CHAT, max_new_tokens=5)
    with pytest.raises(InputError, match="reads text only"):
        model.chat([{"role": "user", "content": [{"type": "image", "image": "a.png"}]}])


def test_prompts_of_any_length_are_as_alone(model: LanguageModel) -> None:
    prompts = ["the cat", "a dog and a cat are not the same thing", "x"]
    for settings in ({}, {"temperature": 0.8, "top_p": 0.9}, {"beams": 3}, {"repetition_penalty": 1.3}):
        say: dict[str, Any] = {"max_new_tokens": 20, **settings}
        together = model.generate(prompts, **say)
        assert together[0] == model.generate(prompts[:1], **say)[0] or _close(
            together[0], model.generate(prompts[:1], **say)[0]
        )
        if "temperature" not in settings:  # draws follow the row's number
            for one, prompt in zip(together, prompts, strict=True):
                assert one.tokens == model.generate([prompt], **say)[0].tokens
        if "beams" not in settings:
            assert [c.tokens for c in model.generate(prompts, draft=model, **say)] == [c.tokens for c in together] or (
                "temperature" in settings  # a draft's draws are others
            )


def _close(a: Any, b: Any) -> bool:
    return a.tokens == b.tokens and all(abs(x - y) < 1e-4 for x, y in zip(a.logprobs, b.logprobs, strict=True))


def test_seeds(model: LanguageModel) -> None:
    def texts(seed: int) -> list[str]:
        return [c.text for c in model.generate(["the cat"] * 2, temperature=1.0, max_new_tokens=12, seed=seed)]

    assert texts(1) == texts(1) != texts(2)
    assert texts(1)[0] != texts(1)[1]


def test_pieces_joined_are_the_text(model: LanguageModel) -> None:
    for seed in range(2):
        say: dict[str, Any] = {"temperature": 1.5, "max_new_tokens": 30, "seed": seed}
        pieces = list(model.stream("the cat", **say))
        assert "".join(pieces) == model.generate(["the cat"], **say)[0].text
        assert all("\ufffd" not in piece for piece in pieces[:-1]) or "\ufffd" in "".join(pieces)
        assert "".join(model.stream(CHAT, **say)) == model.chat(CHAT, **say).text


def test_letters_of_several_tokens_come_whole(model: LanguageModel) -> None:
    text = "caf\u00e9 \U0001f44d\U0001f3fd na\u00efve \u4f60\u597d"
    tokens = model.tokenizer.encode(text)
    assert len(tokens) > len(text)
    letters = model.tokenizer.detokenizer()
    pieces = [letters.add(token) for token in tokens]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    cut = model.tokenizer.detokenizer()
    shown = "".join(cut.add(token) for token in tokens[:-1])
    assert shown + cut.rest() == model.tokenizer.decode(tokens[:-1])


def test_stop_strings(model: LanguageModel) -> None:
    whole = model.generate(["the cat"], max_new_tokens=40)[0].text
    stop = whole[9:12]
    for settings in ({}, {"draft": model}, {"beams": 2}):
        found = model.generate(["the cat"], max_new_tokens=40, stop=[stop, "never there"], **settings)[0]
        assert stop not in found.text
        if "beams" not in settings:
            assert found.finish == "stop"
            assert found.text == whole[: whole.index(stop)]
    pieces = list(model.stream("the cat", max_new_tokens=40, stop=stop))
    assert "".join(pieces) == whole[: whole.index(stop)]
    assert model.generate(["the cat"], max_new_tokens=3)[0].finish == "length"


def test_all_tokens_that_end_a_text(folder: Path, model: LanguageModel) -> None:
    tokens = model.generate(["the cat"], max_new_tokens=20)[0].tokens
    end = next(token for number, token in enumerate(tokens) if number > 3 and token not in tokens[:number])
    both = LanguageModel(model.decoder, LanguageTokenizer(model.tokenizer.tokenizer, [2, end]), model.template)
    found = both.generate(["the cat"], max_new_tokens=20)[0]
    assert found.tokens == tokens[: tokens.index(end)]
    assert found.finish == "stop"
    assert model.tokenizer.stops[0] == model.tokenizer.token("<|im_end|>")


SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["cat", "dog"]}, "legs": {"type": "integer", "minimum": 1, "maximum": 4}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("settings", [{}, {"temperature": 2.0}, {"beams": 2}, {"draft": True}])
def test_json_of_a_schema(model: LanguageModel, settings: dict[str, Any]) -> None:
    if settings.pop("draft", False):
        settings = {"draft": model}
    for found in model.generate(["the cat", "a dog and"], schema=SCHEMA, max_new_tokens=60, **settings):
        said = json.loads(found.text)
        assert said["name"] in ("cat", "dog")
        assert said["legs"] in (1, 2, 3, 4)
        assert found.finish == "stop"


def test_draws_follow_the_distribution(model: LanguageModel) -> None:
    """With and without a draft: two tokens, a temperature and a nucleus, against exact probabilities."""
    count = 1500
    say: dict[str, Any] = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.05, "max_new_tokens": 1}
    logits = model.decoder(torch.tensor([model.tokenizer.encode("the cat")])).x[0, -1].detach().double() / 0.7
    order = logits.argsort(descending=True)[:5]
    p = logits[order].softmax(-1)
    kept = 1 + int((p.cumsum(0) < 0.9).sum())
    p = p[:kept] / p[:kept].sum()
    p = p * (p >= 0.05 * p[0])
    p = p / p.sum()
    expected = {int(token): float(chance) * count for token, chance in zip(order, p, strict=False) if chance > 0}
    assert len(expected) > 2
    for draft in (None, _noisy(model)):
        found = Counter(c.tokens[0] for c in model.generate(["the cat"] * count, draft=draft, **say))
        assert found.keys() <= expected.keys()
        chi2 = sum((found[token] - want) ** 2 / want for token, want in expected.items())
        assert chi2 < 20, (chi2, found, expected)  # 4 degrees of freedom at most: p = 5e-4


def _noisy(model: LanguageModel) -> LanguageModel:
    decoder = Decoder(model.decoder.config)
    torch.manual_seed(7)
    decoder.load_state_dict({k: v + 0.05 * torch.randn_like(v) for k, v in model.decoder.state_dict().items()})
    return LanguageModel(decoder.eval(), model.tokenizer)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beams": 2, "temperature": 1.0}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0.0}, "p must be"),
        ({"repetition_penalty": 0.0}, "penalty"),
        ({"stop": [""]}, "stop string"),
        ({"max_new_tokens": 500}, "context of 96"),
        ({"tempreature": 1}, "no setting 'tempreature'"),
        ({"schema": "{"}, "no JSON"),
        ({"schema": {"type": "nonsense"}}, "schema"),
    ],
)
def test_what_makes_no_sense(model: LanguageModel, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        model.generate(["the cat"], **settings)
    assert "\n" not in str(caught.value)


def test_prompts_that_cannot_be(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="context of 96"):
        model.generate(["the cat " * 200])
    with pytest.raises(InputError, match="empty prompt"):
        model.generate(["", "a"])
    with pytest.raises(InputError, match="list of texts"):
        model.generate("the cat")
    with pytest.raises(InputError, match="1 beam"):
        list(model.stream("the cat", beams=2))
    with pytest.raises(InputError, match="no chat template"):
        LanguageModel(model.decoder, model.tokenizer).chat(CHAT)
    with pytest.raises(InputError, match="not of one"):
        LanguageModel(Decoder(DecoderConfig(vocab=10, dim=8, depth=1, heads=2, kv_heads=1, hidden=8)), model.tokenizer)
    with pytest.raises(InputError, match="no tokenizer"):
        LanguageTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="can be read"):
        LanguageTokenizer.load(tmp_path)
