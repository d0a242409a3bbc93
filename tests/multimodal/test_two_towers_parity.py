"""CLIP, SigLIP and SigLIP 2 equal open_clip's and transformers': features, logits and gradients."""

from dataclasses import replace
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from multimodal.context import resized_context
from multimodal.names import open_clip as open_clip_names
from multimodal.presets import PRESETS
from multimodal.tokenizer import ClipTokenizer
from multimodal.two_towers import TwoTowers, TwoTowersConfig

TEXTS = ["a photo of a cat", "x", "two people, riding bicycles along a river on a sunny afternoon in late summer"]
NAMES = ["ViT-B-32", "ViT-B-32-quickgelu", "ViT-L-14", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2"]
DEPTH = 2
VOCAB = 1000  # of SigLIP, whose real ones take most of the memory


def _shallow(config: TwoTowersConfig) -> TwoTowersConfig:
    text = replace(config.text, depth=DEPTH)
    if not text.causal:
        text = replace(text, vocab=VOCAB)
    return replace(config, image=replace(config.image, depth=DEPTH), text=text)


def _peer(name: str) -> nn.Module:
    """open_clip's model with all its widths, two blocks deep, and weights that are far from a fresh model's."""
    said = open_clip.get_model_config(name)
    said["text_cfg"]["layers"] = DEPTH
    custom = said.pop("custom_text", False)
    if custom:
        said["text_cfg"]["vocab_size"] = VOCAB
    else:
        said["vision_cfg"]["layers"] = DEPTH
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.device("meta"):
        peer = kind(**said)
    if custom:
        peer.visual.trunk.blocks = peer.visual.trunk.blocks[:DEPTH]
    peer = peer.to_empty(device="cpu")
    if not custom:
        peer.attn_mask = torch.full((77, 77), float("-inf")).triu(1)
    with torch.no_grad():
        for key, tensor in peer.state_dict().items():
            norm = key.endswith("weight") and tensor.ndim == 1
            tensor.normal_(std=0.02).add_(1.0 if norm else 0.0)
        peer.logit_scale.fill_(3.0)
    return peer.eval()


def _ids(config: TwoTowersConfig) -> Tensor:
    if config.text.causal:
        return ClipTokenizer()(TEXTS)
    ids = torch.full((3, config.text.context), config.text.pad)
    for row, length in zip(ids, (6, 2, 30), strict=True):
        row[: length - 1] = torch.randint(2, VOCAB, (length - 1,))
        row[length - 1] = 1
    return ids


def _ours(name: str, peer: nn.Module) -> TwoTowers:
    config = _shallow(PRESETS[name])
    model = TwoTowers(config).eval()
    table = open_clip_names(config, custom=isinstance(peer, open_clip.CustomTextCLIP))
    model.load_state_dict(table.load(peer.state_dict()))
    return model


def _close(found: Tensor, expected: Tensor, error: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= error * expected.norm(), (found - expected).norm() / expected.norm()


# ViT-L-14 is ViT-B-32 with other widths
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough if name == "ViT-L-14" else ()) for name in NAMES]
)
def test_open_clip(name: str) -> None:
    peer = _peer(name)
    model = _ours(name, peer)
    config = model.config
    images, ids = torch.randn(3, 3, *config.image.image), _ids(config)
    for normalize in (False, True):
        torch.testing.assert_close(
            model.encode_image(images, normalize), peer.encode_image(images, normalize), atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            model.encode_text(ids, normalize), peer.encode_text(ids, normalize), atol=1e-4, rtol=1e-4
        )
    pair = model(images, ids)
    logits = model.logits(pair.image, pair.text)
    expected = peer.get_logits(images, ids)[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)

    weights = torch.randn(3, 3)
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    table = open_clip_names(config, custom=isinstance(peer, open_clip.CustomTextCLIP))
    gradients = table.load({key: p.grad for key, p in peer.named_parameters()})
    ours = dict(model.named_parameters())
    assert gradients.keys() == ours.keys()
    largest = max(float(g.norm()) for g in gradients.values())
    for key, expected in gradients.items():
        grad = ours[key].grad
        assert grad is not None
        # the bias of keys has no gradient but rounding: no softmax sees it
        if float(expected.norm()) > 1e-5 * largest:
            _close(grad, expected, 2e-5)


def test_all_presets_have_the_shapes_of_open_clip() -> None:
    for name, config in PRESETS.items():
        said = open_clip.get_model_config(name)
        custom = said.pop("custom_text", False)
        with torch.device("meta"):
            theirs = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**said)
            ours = TwoTowers(config)
        found = open_clip_names(config, custom).load(theirs.state_dict())
        shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
        assert {key: tensor.shape for key, tensor in found.items()} == shapes, name
        heads = [m.num_heads for m in theirs.modules() if isinstance(m, nn.MultiheadAttention)]
        assert heads[-1] == config.text.heads, name
        assert heads[0] == config.image.heads or custom, name


def _hugging_face(kind: str) -> tuple[nn.Module, dict[str, Any]]:
    import transformers as hf

    text: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 60,
        "max_position_embeddings": 16,
    }
    vision: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 32,
    }
    if kind == "clip":
        text |= {"eos_token_id": 59, "bos_token_id": 58, "pad_token_id": 0}
        model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    elif kind == "old clip":
        text |= {"eos_token_id": 2, "bos_token_id": 58, "pad_token_id": 1}
        model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    else:
        model = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            norm = key.endswith("weight") and tensor.ndim == 1
            tensor.normal_(std=0.3 if tensor.ndim else 1.0).add_(1.0 if norm else 0.0)
    return model.eval(), {}


@pytest.mark.parametrize("kind", ["clip", "old clip", "siglip"])
def test_transformers(kind: str, tmp_path: Any) -> None:
    from multimodal.weights import load_two_towers

    peer, _ = _hugging_face(kind)
    peer.save_pretrained(tmp_path)
    model, _ = load_two_towers(tmp_path)
    ids = torch.randint(3, 58, (3, 16))
    for row, length in zip(ids, (5, 16, 9), strict=True):
        row[length - 1] = 59
        row[length:] = 59 if kind == "clip" else 1
    images = torch.randn(3, 3, 32, 32)
    expected = peer(input_ids=ids, pixel_values=images)
    pair = model(images, ids)
    torch.testing.assert_close(pair.image, expected.image_embeds, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pair.text, expected.text_embeds, atol=1e-4, rtol=1e-4)
    logits = model.logits(pair.image, pair.text)
    torch.testing.assert_close(logits, expected.logits_per_image, atol=1e-4, rtol=1e-4)


@pytest.fixture(params=[True, False], ids=["causal", "bidirectional"])
def small(request: pytest.FixtureRequest) -> TwoTowers:
    name = "ViT-B-32" if request.param else "ViT-B-16-SigLIP2"
    config = _shallow(PRESETS[name])
    image = replace(config.image, image=(64, 64), patch=16, dim=32, heads=4, hidden=64)
    text = replace(config.text, dim=32, heads=4, hidden=64, embed=32, vocab=60, context=12)
    return TwoTowers(replace(config, image=image, text=text)).eval()


def test_alone_and_in_a_batch(small: TwoTowers) -> None:
    images, ids = torch.randn(4, 3, 64, 64), torch.randint(3, 58, (4, 12))
    for row, length in zip(ids, (4, 12, 2, 7), strict=True):
        row[length - 1] = 59
        row[length:] = 0
    together = small(images, ids)
    for number in range(4):
        alone = small(images[number : number + 1], ids[number : number + 1])
        torch.testing.assert_close(alone.image[0], together.image[number], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(alone.text[0], together.text[number], atol=1e-6, rtol=1e-5)


def test_padding_behind_the_stop_token_changes_nothing() -> None:
    config = replace(PRESETS["ViT-B-32"].text, dim=32, heads=4, depth=2, vocab=60, context=12)
    shape = replace(PRESETS["ViT-B-32"].image, dim=32, heads=4, depth=1)
    model = TwoTowers(TwoTowersConfig(shape, config)).eval()
    ids = torch.tensor([[58, 5, 9, 59] + [0] * 8])
    others = torch.tensor([[58, 5, 9, 59] + [7] * 8])
    expected = model.encode_text(ids[:, :4])
    torch.testing.assert_close(model.encode_text(ids), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.encode_text(others), expected, atol=1e-6, rtol=1e-5)


def test_recomputation_gives_the_same_gradients(small: TwoTowers) -> None:
    again = TwoTowers(small.config, recompute=True)
    again.load_state_dict(small.state_dict())
    images, ids = torch.randn(2, 3, 64, 64), torch.randint(3, 60, (2, 12))
    for model in (small, again):
        pair = model.train()(images, ids)
        model.logits(pair.image, pair.text).square().sum().backward()
    for (name, p), q in zip(small.named_parameters(), again.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None, name
        torch.testing.assert_close(q.grad, p.grad)


def test_a_longer_context(small: TwoTowers) -> None:
    model = resized_context(small, 40, kept=8)
    old, new = small.text.positions.table, model.text.positions.table
    assert new.shape == (40, 32)
    assert torch.equal(new[:8], old[:8])
    # the 4 rows behind those that stay are spread over 32, the first and the last in place
    torch.testing.assert_close(new[[8, 39]], old[[8, 11]])
    place = 3 * 13 / 31
    between = old[9] + (old[10] - old[9]) * (place - 1)
    torch.testing.assert_close(new[8 + 13], between)
    assert (small.config.text.context, model.config.text.context) == (12, 40)
    ids = torch.randint(3, 58, (2, 40))
    assert model.encode_text(ids).shape == (2, 32)
    if small.config.text.causal:
        ids[:, 7] = 59
        torch.testing.assert_close(model.encode_text(ids), small.encode_text(ids[:, :12]))
    with pytest.raises(ValueError, match="shorten them"):
        small.encode_text(torch.full((2, 40), 3).index_fill(1, torch.tensor([39]), 59))
