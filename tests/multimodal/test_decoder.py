"""Decoders against transformers: logits, gradients, weights there and back; the same alone, padded, packed, cached."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_peers import LLAMA3, MODELS, SMALL, VOCAB, reference
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import InputError
from core.nn import Causal, Ctx, Ring, Static, Window, pack, padded_tokens
from core.weights import Bundle, from_plain, save_bundle
from multimodal.decoder import Decoder, DecoderConfig, Experts
from multimodal.decoder_config import config_of_hugging_face
from multimodal.decoder_weights import export_decoder, is_decoder, load_decoder

TEXT = 24


@pytest.fixture(scope="module", params=list(MODELS))
def both(request: Any, tmp_path_factory: Any) -> tuple[Decoder, nn.Module, Path]:
    theirs = reference(request.param)
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    return load_decoder(folder)[0], theirs, folder


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(VOCAB, (3, TEXT), generator=torch.Generator().manual_seed(1))


def test_logits_and_gradients(both: tuple[Decoder, nn.Module, Path], ids: Tensor, tmp_path: Path) -> None:
    ours, theirs, _ = both
    mine, reference = ours(ids).x, theirs(ids).logits
    torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-5)
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2)) / 10
    (mine * weight).sum().backward()
    (reference * weight).sum().backward()
    # their gradients, as weights of a model of theirs: through the same table
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(tmp_path)
    wanted = load_decoder(tmp_path)[0].state_dict()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_leave_as_they_came(both: tuple[Decoder, nn.Module, Path], tmp_path: Path, dtype: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(both[2] / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes((both[2] / "config.json").read_bytes())
    model, origin = load_decoder(folder)
    export_decoder(model, tmp_path / "out.safetensors", origin.source)
    assert (tmp_path / "out.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_gpt2_files_of_openai(tmp_path: Path) -> None:
    theirs = reference("gpt2")
    tensors = {name.removeprefix("transformer."): t.contiguous() for name, t in theirs.transformer.state_dict().items()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(128, 128).tril()[None, None]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    theirs.config.save_pretrained(tmp_path)
    model, origin = load_decoder(tmp_path)
    ids = torch.arange(9)[None]
    torch.testing.assert_close(model(ids).x, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    export_decoder(model, tmp_path / "out.safetensors", origin.source)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_a_bundle_keeps_the_config(tmp_path: Path) -> None:
    for number, scaling in enumerate(({"type": "yarn", "factor": 2}, LLAMA3, {"type": "linear", "factor": 2}, None)):
        said = {"model_type": "qwen3", **{k: v for k, v in SMALL.items() if k != "attn_implementation"}}
        config = config_of_hugging_face(said | {"rope_scaling": scaling, "head_dim": 8}, tmp_path)
        assert from_plain(DecoderConfig, json.loads(json.dumps(asdict(config)))) == config
        save_bundle(tmp_path / str(number), Decoder(config), Bundle("multimodal.Decoder", asdict(config)))
        assert is_decoder(tmp_path / str(number))
        assert load_decoder(tmp_path / str(number))[0].config == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, "expected one of llama"),
        ({"hidden_act": "gelu"}, "silu"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "known are linear, yarn and llama3"),
        ({"rope_scaling": {"type": "llama3", "factor": 2}}, "low_freq_factor"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [0]}, "without experts"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "layer_types": ["x"]}, "layer_types"),
    ],
)
def test_what_is_not_supported_is_said(changes: dict[str, Any], words: str) -> None:
    said = {"model_type": "llama", **SMALL} | changes
    said = {key: value for key, value in said.items() if value is not None}
    with pytest.raises(InputError, match=words) as caught:
        config_of_hugging_face(said, Path("config.json"))
    assert "\n" not in str(caught.value)


def test_alone_padded_packed_and_batched_are_one(both: tuple[Decoder, nn.Module, Path], ids: Tensor) -> None:
    ours = both[0]
    lengths = [TEXT, 9, 1]
    alone = [ours(ids[row : row + 1, :n]).x[0] for row, n in enumerate(lengths)]
    for left in (False, True):
        tokens = padded_tokens(torch.tensor(lengths), TEXT, left=left)
        rows = torch.stack([row.roll(TEXT - n) if left else row for row, n in zip(ids, lengths, strict=True)])
        padded = ours(rows, Ctx(tokens=tokens)).x
        for row in range(3):
            torch.testing.assert_close(padded[row][tokens.index[row] >= 0], alone[row], atol=2e-5, rtol=1e-4)
    packed, tokens = pack([row[:n, None] for row, n in zip(ids, lengths, strict=True)])
    mine = ours(packed[..., 0], Ctx(tokens=tokens)).x[0]
    torch.testing.assert_close(mine, torch.cat(alone), atol=2e-5, rtol=1e-4)


def test_cached_is_uncached(both: tuple[Decoder, nn.Module, Path], ids: Tensor) -> None:
    ours = both[0]
    whole = ours(ids).x
    makers: list[Any] = [None, lambda: Static(TEXT)]
    if ours.config.window is not None and ours.config.window_layers is None:
        makers.append(lambda: Ring(ours.config.window or 0))
    for make in makers:
        cache = ours.cache() if make is None else ours.cache(make)
        parts = [ours(piece, Ctx(cache=cache)).x for piece in ids.split([7, 1, 1, 10, 5], 1)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-4)


def test_sinks_see_the_first_tokens(ids: Tensor) -> None:
    config = DecoderConfig(vocab=VOCAB, dim=32, depth=2, heads=4, kv_heads=2, hidden=48, window=4, sinks=2)
    assert config.sight(0) == (Causal() & Window(4, 2))
    torch.manual_seed(0)
    model = Decoder(config)
    cache = model.cache(lambda: Ring(4, 2))
    parts = [model(piece, Ctx(cache=cache)).x for piece in ids.split(1, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids).x, atol=1e-5, rtol=1e-4)


def test_recomputing_changes_nothing(ids: Tensor) -> None:
    config = DecoderConfig(
        vocab=VOCAB, dim=32, depth=2, heads=4, kv_heads=2, hidden=48, experts=Experts(4, 2, 16)
    )  # fmt: skip
    models = [Decoder(config), Decoder(config, recompute=True)]
    models[1].load_state_dict(models[0].state_dict())
    found = []
    for model in models:
        logits, notes = model(ids)
        (logits.square().mean() + sum(note["mlp"]["balance"] + note["mlp"]["z"] for note in notes.values())).backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_embeddings_in_place_of_tokens(ids: Tensor) -> None:
    config = DecoderConfig(vocab=VOCAB, dim=32, depth=1, heads=4, kv_heads=2, hidden=48)
    for model in (Decoder(config), Decoder(replace(config, positions="learned", context=32, tied=False))):
        torch.testing.assert_close(model(model.embed(ids)).x, model(ids).x)
    with pytest.raises(ValueError, match="positions for 32"):
        model(torch.zeros(1, 33, dtype=torch.long))
