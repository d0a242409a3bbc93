"""CoCa against open_clip's coca_ViT-B-32 with fewer blocks: features, logits, gradients, losses, captions."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import open_clip
import open_clip.coca_model
import pytest
import torch
from open_clip.coca_model import CoCa as Theirs
from open_clip.loss import CoCaLoss
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TopKLogitsWarper

from core.errors import InputError
from core.generate import Sample, TopK
from core.weights import Bundle, build, load_into, save_bundle
from multimodal.caption import CaptionStep, caption
from multimodal.coca import CoCa, CoCaConfig
from multimodal.coca_names import open_clip as names
from multimodal.coca_weights import PRESETS, export_coca, load_coca
from multimodal.losses.captioning import captioning
from multimodal.tokenizer import ClipTokenizer

BLOCKS = 2
TEXTS = ["a photo of a cat", "Two dogs, running! on the beach & a very long caption " * 8, ""]
Both = tuple[CoCa, Theirs]


def _config() -> CoCaConfig:
    whole = CoCaConfig()
    return replace(whole, image=replace(whole.image, depth=BLOCKS), depth=BLOCKS, decoder_depth=BLOCKS)


def _theirs(blocks: int | None = BLOCKS, name: str = "coca_ViT-B-32") -> Theirs:
    config = open_clip.get_model_config(name)
    config.pop("custom_text")
    for part in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        config[part]["layers"] = blocks or config[part]["layers"]
    return Theirs(**config)


@pytest.fixture(scope="module")
def both() -> Both:
    torch.manual_seed(0)
    theirs = _theirs().eval()
    nn.init.normal_(theirs.text_decoder.text_projection, std=512**-0.5)  # they leave it as the memory was
    for name, parameter in theirs.named_parameters():
        if parameter.ndim == 1 and name != "text.cls_emb":  # biases and norms that do something
            nn.init.normal_(parameter, mean=float("ln" in name and name.endswith("weight")), std=0.1)
    ours, _ = build(lambda: CoCa(_config()), names(_config()), theirs.state_dict())
    return ours.eval(), theirs


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return ClipTokenizer(76)(TEXTS)


def test_features_and_logits_equal_open_clip(both: Both, images: Tensor, ids: Tensor) -> None:
    ours, theirs = both
    with torch.no_grad():
        expected = theirs(images, ids)
        found = ours(images, ids)
        torch.testing.assert_close(found.image, expected["image_features"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.text, expected["text_features"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.scale, expected["logit_scale"])
        torch.testing.assert_close(ours.decoder.head(found.states), expected["logits"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.caption_logits(images, ids), expected["logits"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.encode_image(images), found.image, atol=1e-6, rtol=1e-5)
        raw = theirs.encode_image(images, normalize=False)
        torch.testing.assert_close(ours.encode_image(images, normalize=False), raw, atol=1e-4, rtol=1e-4)
        pairs = expected["logit_scale"] * expected["image_features"] @ expected["text_features"].T
        torch.testing.assert_close(ours.logits(found.image, found.text), pairs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [[0], [2], [0, 2], [0, 1, 2]])
def test_padding_that_is_left_out_changes_nothing(both: Both, ids: Tensor, rows: list[int]) -> None:
    ours, theirs = both
    with torch.no_grad():
        expected = theirs.encode_text(ids[rows])
        torch.testing.assert_close(ours.encode_text(ids[rows]), expected, atol=1e-5, rtol=1e-4)
        zeros = torch.zeros(1, 76, dtype=torch.long)  # nothing but padding
        torch.testing.assert_close(ours.encode_text(zeros), theirs.encode_text(zeros), atol=1e-5, rtol=1e-4)
        holed = ids[:1].clone()
        holed[:, 2] = 0  # token 0 is a word too
        torch.testing.assert_close(ours.encode_text(holed), theirs.encode_text(holed), atol=1e-5, rtol=1e-4)


def test_losses_and_gradients_equal_open_clip(both: Both, images: Tensor, ids: Tensor) -> None:
    ours, theirs = both
    ours.zero_grad()
    theirs.zero_grad()
    expected = theirs(images, ids)
    loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)
    keys = ("image_features", "text_features", "logits", "labels", "logit_scale")
    contrastive, written = loss(*(expected[key] for key in keys))
    (contrastive + written).backward()

    found = ours(images, ids)
    mine = captioning(found.states, ours.decoder.head.weight, ids[:, 1:], chunk=20)
    torch.testing.assert_close(2 * mine, written, atol=1e-5, rtol=1e-5)
    pairs = ours.logits(found.image, found.text)
    targets = torch.arange(len(pairs))
    both_ways = (nn.functional.cross_entropy(pairs, targets) + nn.functional.cross_entropy(pairs.T, targets)) / 2
    torch.testing.assert_close(both_ways, contrastive, atol=1e-5, rtol=1e-5)
    (both_ways + 2 * mine).backward()

    table = names(ours.config)
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in ours.named_parameters()}
    back = table.export(grads)
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(back[name], parameter.grad, atol=1e-5, rtol=0, msg=name)


def test_captioning_counts_no_padding() -> None:
    states = torch.randn(4, 9, 16, dtype=torch.float64, requires_grad=True)
    head = torch.randn(30, 16, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 30, (4, 9))
    labels[:, 6:] = 0
    expected = nn.functional.cross_entropy((states @ head.T).flatten(0, 1), labels.flatten(), ignore_index=0)
    grads = torch.autograd.grad(expected, [states, head])
    for chunk in (1, 7, 1000):
        found = captioning(states, head, labels, chunk=chunk)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
        for mine, wanted in zip(torch.autograd.grad(found, [states, head]), grads, strict=True):
            torch.testing.assert_close(mine, wanted, atol=1e-12, rtol=1e-12)
    assert captioning(states, head, torch.zeros_like(labels)).item() == 0


@pytest.fixture
def generating(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip gives up generating where transformers has no BeamSearchScorer any more: greedy needs none."""
    monkeypatch.setattr(open_clip.coca_model, "_has_transformers", True)
    monkeypatch.setitem(open_clip.coca_model.GENERATION_TYPES, "top_k", TopKLogitsWarper)


@pytest.mark.usefixtures("generating")
def test_greedy_captions_equal_open_clip(both: Both, images: Tensor) -> None:
    ours, theirs = both
    rows = theirs.generate(images, seq_len=20, generation_type="top_k", top_k=1)
    tokenizer = ClipTokenizer(76)
    found = caption(ours, images, tokenizer, beams=1, limit=18)
    for row, mine in zip(rows[:, 1:].tolist(), found, strict=True):
        assert mine.tokens == row[: row.index(tokenizer.eot)]
        assert mine.text == tokenizer.decode(row)
    drawn = caption(ours, images, tokenizer, beams=1, limit=18, rules=[TopK(1)], choose=Sample())
    assert [each.tokens for each in drawn] == [each.tokens for each in found]


def test_the_cache_changes_nothing(both: Both, images: Tensor, ids: Tensor) -> None:
    ours, theirs = both
    text = ids[:, :12].clone()
    text[0, 4] = 0  # a word that hides its neighbour, as padding does
    with torch.no_grad():
        expected = theirs(images, text, output_labels=False)["logits"]
        step = CaptionStep(ours, images)
        parts = [step(text[:, :5]), *(step(text[:, n : n + 1]) for n in range(5, 12))]
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=1e-4)


def test_beams_find_likelier_captions_than_greed(both: Both, images: Tensor) -> None:
    ours, _ = both
    tokenizer = ClipTokenizer(76)
    greedy = caption(ours, images, tokenizer, beams=1, limit=6)
    beams = caption(ours, images, tokenizer, beams=4, limit=6)
    with torch.no_grad():
        for number, found in enumerate(beams):
            whole = torch.tensor([[tokenizer.start, *found.tokens, *[tokenizer.eot] * found.finished]])
            logits = ours.caption_logits(images[number : number + 1], whole)
            logits[:, :4, tokenizer.eot] = -torch.inf  # no caption ends before it has 4 tokens
            each = logits.log_softmax(-1).gather(2, whole[:, 1:, None])
            assert found.logprob == pytest.approx(each.sum().item(), abs=1e-3)
            assert found.logprob >= greedy[number].logprob - 1e-4


def test_a_prompt_begins_the_caption(both: Both, images: Tensor) -> None:
    ours, _ = both
    tokenizer = ClipTokenizer(76)
    found = caption(ours, images[:1], tokenizer, prompt="a photo of", limit=3)[0]
    assert found.text.startswith("a photo of")
    assert len(found.tokens) <= 3
    with pytest.raises(InputError, match="reads 76"):
        caption(ours, images[:1], tokenizer, prompt="word " * 90)
    with pytest.raises(InputError, match="1 beam"):
        caption(ours, images[:1], tokenizer, beams=2, choose=Sample())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_whole_shape_is_theirs(name: str) -> None:
    with torch.device("meta"):
        theirs, ours = _theirs(None, name), CoCa(PRESETS[name])
    expected = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    back = names(ours.config).export(ours.state_dict())
    assert {key: tensor.shape for key, tensor in back.items()} == expected


def test_weights_leave_as_they_came(both: Both) -> None:
    ours, theirs = both
    source = load_into(ours, names(ours.config), theirs.state_dict())
    back = names(ours.config).export(ours.state_dict(), source)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())


def _small() -> tuple[CoCaConfig, dict[str, Any]]:
    """A small model, as we and as open_clip describe it."""
    ours = CoCaConfig(
        image=replace(_config().image, image=(64, 64), dim=32, heads=2, depth=2),
        embed=16, queries=256, pool_heads=2, vocab=50, context=8, dim=16, depth=2, heads=2, decoder_depth=3,
        decoder_heads=4,
    )  # fmt: skip
    theirs = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 32, "attentional_pool": True,
            "attn_pooler_heads": 2, "output_tokens": True,
        },
        "text_cfg": {
            "context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2, "embed_cls": True,
            "output_tokens": True,
        },
        "multimodal_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 4, "layers": 3},
    }  # fmt: skip
    return ours, theirs


def test_a_folder_of_open_clip_loads_and_leaves_as_it_came(tmp_path: Path, images: Tensor) -> None:
    config, said = _small()
    theirs = Theirs(**said).eval()
    nn.init.normal_(theirs.text_decoder.text_projection)
    save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    plain = {"model_cfg": said, "preprocess_cfg": {"mean": [0.5] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(plain))
    ours, origin = load_coca(tmp_path)
    assert ours.config == config
    assert origin.preprocessing == {"mean": [0.5] * 3}
    pictures, texts = images[:, :, :64, :64], torch.randint(1, 50, (3, 8))
    with torch.no_grad():
        expected = theirs(pictures, texts)
        torch.testing.assert_close(ours.caption_logits(pictures, texts), expected["logits"], atol=1e-4, rtol=1e-4)
    export_coca(ours, tmp_path / "back.safetensors", origin.source)
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())


def test_a_bundle_holds_it(tmp_path: Path, images: Tensor) -> None:
    config, _ = _small()
    model = CoCa(config).eval()
    save_bundle(tmp_path / "bundle", model, Bundle("multimodal.CoCa", asdict(config)))
    again, origin = load_coca(tmp_path / "bundle")
    assert (again.config, origin.layout) == (config, "bundle")
    pictures = images[:, :, :64, :64]
    assert torch.equal(again.encode_image(pictures), model.encode_image(pictures))


def test_another_model_is_named(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is no CoCa model"):
        load_coca(tmp_path)


def test_recomputation_changes_nothing(images: Tensor, ids: Tensor) -> None:
    small, _ = _small()
    plain, saving = CoCa(small), CoCa(small, recompute=True)
    saving.load_state_dict(plain.state_dict())
    pictures, texts = images[:, :, :64, :64], ids[:, :8] % 50
    grads = []
    for model in (plain, saving):
        found = model(pictures, texts)
        (found.states.sum() + (found.image * found.text).sum()).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(grads[0], grads[1])


def test_the_scale_is_clamped() -> None:
    model = CoCa(_small()[0])
    for start, expected in ((9.0, 100.0), (-3.0, 1.0)):
        model.logit_scale.data.fill_(start)
        model.clamp()
        assert model.logit_scale.exp().item() == pytest.approx(expected, rel=1e-5)


def test_a_tower_with_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="without classes"):
        CoCaConfig(image=replace(CoCaConfig().image, classes=10))
