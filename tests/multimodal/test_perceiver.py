"""Perceivers of every kind against transformers': outputs, gradients, and weights that leave as they came."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.errors import InputError
from core.nn import Tokens, padded_tokens
from core.weights import Bundle, from_plain, save_bundle
from multimodal.perceiver import Perceiver, PerceiverConfig
from multimodal.perceiver.names import hugging_face
from multimodal.perceiver.weights import config_of, export_perceiver, load_perceiver

SMALL: dict[str, Any] = {
    "num_latents": 5, "d_latents": 16, "d_model": 24, "num_blocks": 2, "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2, "num_cross_attention_heads": 1, "self_attention_widening_factor": 2,
    "max_position_embeddings": 20, "attention_probs_dropout_prob": 0.0, "num_labels": 7,
}  # fmt: skip
WIDE = {"qk_channels": 8, "v_channels": 16, "num_cross_attention_heads": 2}
VIDEO = {
    "num_frames": 2, "audio_samples_per_frame": 32, "samples_per_patch": 16, "image_size": 8,
    "output_shape": (1, 2, 8, 8), "output_num_channels": 12,
}  # fmt: skip
POINTS = {"image": torch.tensor([0, 5, 127, 64]), "audio": torch.tensor([1, 3])}


def kinds() -> dict[str, tuple[dict[str, Any], Any]]:
    """Settings and inputs, as ours takes them, of each architecture."""
    torch.manual_seed(1)
    ids = torch.randint(6, 262, (2, 9))
    signals = {"audio": torch.randn(2, 64), "image": torch.randn(2, 3, 2, 8, 8), "label": torch.randn(2, 7)}
    return {
        "MaskedLM": (WIDE, ids),
        "SequenceClassification": (WIDE, ids),
        "ImageClassificationLearned": ({"image_size": 6}, torch.randn(2, 3, 6, 6)),
        "ImageClassificationFourier": ({"cross_attention_shape_for_attention": "q"}, torch.randn(2, 3, 5, 7)),
        "ImageClassificationConvProcessing": ({}, torch.randn(2, 3, 24, 24)),
        "OpticalFlow": ({"train_size": (6, 8)}, torch.randn(2, 27, 2, 6, 8)),
        "MultimodalAutoencoding": (VIDEO, signals),
    }


KINDS = kinds()


def build(kind: str, dtype: torch.dtype = torch.float32) -> tuple[Perceiver, nn.Module, Any]:
    """Ours and theirs with the same random weights, in evaluation mode, and their config."""
    module = pytest.importorskip("transformers.models.perceiver.modeling_perceiver")
    torch.manual_seed(0)
    config = module.PerceiverConfig(**{**SMALL, **KINDS[kind][0]}, attn_implementation="eager")
    theirs = getattr(module, f"PerceiverFor{kind}")(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            spread = 0.5 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn_like(parameter) * spread)
    said = {**config.to_dict(), "architectures": [f"PerceiverFor{kind}"]}
    made = config_of(said, theirs.state_dict())
    ours = Perceiver(made).eval()
    ours.load_state_dict(hugging_face(made).load(theirs.state_dict()))
    return ours.to(dtype), theirs.to(dtype), said


def run_theirs(kind: str, theirs: nn.Module, given: Any, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Their results, in our shapes."""
    if kind == "OpticalFlow":
        given = given.transpose(1, 2)
    if kind == "MultimodalAutoencoding":
        given = {
            "audio": given["audio"][..., None],
            "image": given["image"].transpose(1, 2),
            "label": given["label"],
        }
        found = theirs(inputs=given, subsampled_output_points=POINTS).logits
        return {**found, "audio": found["audio"].unflatten(1, (2, 16))}
    found = theirs(inputs=given, attention_mask=mask).logits
    return {"": found[:, : given.shape[1]] if kind == "MaskedLM" else found}


def run_ours(kind: str, ours: Perceiver, given: Any, tokens: Tokens = Tokens()) -> dict[str, Tensor]:
    """Our results by name."""
    found = ours(given, tokens, POINTS if kind == "MultimodalAutoencoding" else None)
    return found if isinstance(found, dict) else {"": found}


def pulled(results: dict[str, Tensor]) -> Tensor:
    """A number that all of the results have a part in."""
    parts = [x for _, x in sorted(results.items())]
    return sum((x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_transformers(kind: str, dtype: torch.dtype) -> None:
    ours, theirs, _ = build(kind, dtype)
    given = KINDS[kind][1]
    if isinstance(given, dict):
        given = {name: x.to(dtype) for name, x in given.items()}
    elif given.is_floating_point():
        given = given.to(dtype)
    tensors = list(given.values()) if isinstance(given, dict) else [given]
    leaves = [x.clone().requires_grad_() for x in tensors if x.is_floating_point()]
    leaves = leaves or [given]
    mine = dict(zip(given, leaves, strict=True)) if isinstance(given, dict) else leaves[0]
    found = []
    for run, model in ((run_ours, ours), (run_theirs, theirs)):
        for leaf in leaves:
            leaf.grad = None
        results = run(kind, model, mine)
        pulled(results).backward()
        found.append((results, [None if leaf.grad is None else leaf.grad.clone() for leaf in leaves]))
    tolerance = 1e-4 if dtype is torch.float32 else 1e-9
    (a, input_a), (b, input_b) = found
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=tolerance)
    for x, y in zip(input_a, input_b, strict=True):
        if x is not None and y is not None:
            torch.testing.assert_close(x, y, atol=tolerance, rtol=tolerance)
    given_grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
    wanted = hugging_face(ours.config).load(given_grads)
    for name, parameter in ours.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        size = max(1.0, float(wanted[name].abs().max()))
        torch.testing.assert_close(grad / size, wanted[name] / size, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["MaskedLM", "SequenceClassification"])
def test_padding_equals_transformers_and_the_text_alone(kind: str) -> None:
    ours, theirs, _ = build(kind)
    ids = KINDS[kind][1]
    tokens = padded_tokens(torch.tensor([4, 9]), 9)
    mask = (tokens.index >= 0).long()
    found = run_ours(kind, ours, ids, tokens)[""]
    torch.testing.assert_close(found, run_theirs(kind, theirs, ids, mask)[""], atol=1e-4, rtol=1e-4)
    alone = ours(ids[:1, :4])
    torch.testing.assert_close(found[:1, :4] if kind == "MaskedLM" else found[:1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_is_byte_identical(kind: str, tmp_path: Path) -> None:
    _, theirs, said = build(kind)
    (tmp_path / "config.json").write_text(json.dumps(said, default=str))
    tensors = {name: x.contiguous() for name, x in theirs.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    model, origin = load_perceiver(tmp_path)
    export_perceiver(model, tmp_path / "back.safetensors", origin.source)
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    plain = json.loads(json.dumps(asdict(model.config)))
    assert from_plain(PerceiverConfig, plain) == model.config
    save_bundle(tmp_path / "bundle", model, Bundle("multimodal.Perceiver", asdict(model.config), source=origin.source))
    again, origin = load_perceiver(tmp_path / "bundle")
    export_perceiver(again, tmp_path / "again.safetensors", origin.source)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_a_config_that_tells_nothing_usable_is_refused() -> None:
    with pytest.raises(InputError, match="architecture 'BertModel'"):
        config_of({"architectures": ["BertModel"]}, {})
    with pytest.raises(InputError, match="can't be followed"):
        config_of({"architectures": ["PerceiverForOpticalFlow"], "train_size": 3}, {})
