"""Zero-shot classification against open_clip's; one picture alone and among others; what labels may be."""

from dataclasses import replace

import open_clip
import pytest
import torch
from open_clip.zero_shot_classifier import build_zero_shot_classifier
from torch import nn

from core.errors import InputError
from multimodal.names import open_clip as names
from multimodal.presets import PRESETS
from multimodal.templates import imagenet_labels, templates
from multimodal.tokenizer import ClipTokenizer
from multimodal.two_towers import TwoTowers
from multimodal.zero_shot import ZeroShotClassifier, text_embeddings

LABELS = ("a tench", "goldfish", "great white shark", "hen", "red-breasted merganser, a diving duck")
SENTENCES = ("a photo of a {}.", "a bad photo of the {}.", "{}")


@pytest.fixture(scope="module")
def towers() -> tuple[TwoTowers, nn.Module]:
    torch.manual_seed(0)
    said = open_clip.get_model_config("ViT-B-32")
    said["text_cfg"]["layers"] = said["vision_cfg"]["layers"] = 2
    theirs = open_clip.CLIP(**said).eval()
    whole = PRESETS["ViT-B-32"]
    ours = TwoTowers(replace(whole, image=replace(whole.image, depth=2), text=replace(whole.text, depth=2)))
    ours.load_state_dict(names(ours.config).load(theirs.state_dict()))
    return ours.eval(), theirs


def test_equal_to_open_clips_classifier(towers: tuple[TwoTowers, nn.Module]) -> None:
    ours, theirs = towers
    found = ZeroShotClassifier(ours, ClipTokenizer(), LABELS, SENTENCES, "float32")
    expected = build_zero_shot_classifier(theirs, open_clip.SimpleTokenizer(), LABELS, SENTENCES)
    torch.testing.assert_close(found.embeddings, expected.T, rtol=0, atol=1e-5)
    images = torch.randn(3, 3, 224, 224)
    with torch.no_grad():
        logits = 100 * theirs.encode_image(images, normalize=True) @ expected / 100 * theirs.logit_scale.exp()
    torch.testing.assert_close(found(images), logits.softmax(-1), rtol=0, atol=1e-5)


def test_a_picture_alone_and_among_others(towers: tuple[TwoTowers, nn.Module]) -> None:
    found = ZeroShotClassifier(towers[0], ClipTokenizer(), LABELS, SENTENCES, "float32")
    images = torch.randn(64, 3, 224, 224)
    together = found(images)
    assert together.shape == (64, len(LABELS))
    torch.testing.assert_close(torch.cat([found(image[None]) for image in images[:4]]), together[:4], rtol=0, atol=1e-5)


def test_texts_in_any_company(towers: tuple[TwoTowers, nn.Module]) -> None:
    """Sorted, cut behind the stop token, said twice: each as if it were read alone at full length."""
    texts = [sentence.replace("{}", label) for label in imagenet_labels()[:40] for sentence in templates("simple")]
    texts += [*texts[:3], "", "word " * 100]
    tokenizer = ClipTokenizer()
    seen: list[tuple[int, int]] = []
    found = text_embeddings(towers[0], tokenizer, texts, lambda done, of: seen.append((done, of)))
    assert seen[-1][0] == seen[-1][1] == len(set(texts))
    for index in (0, 17, len(texts) - 5, len(texts) - 2, len(texts) - 1):
        with torch.no_grad():
            alone = towers[1].encode_text(tokenizer([texts[index]]), normalize=True)
        torch.testing.assert_close(found[index], alone[0], rtol=0, atol=1e-5)


def test_sigmoid_models_judge_each_label_alone() -> None:
    torch.manual_seed(0)
    whole = PRESETS["ViT-B-16-SigLIP"]
    shape = replace(
        whole,
        image=replace(whole.image, depth=1, dim=48, heads=2, hidden=96, image=(32, 32)),
        text=replace(whole.text, vocab=49_408, depth=1, dim=48, heads=2, hidden=96, embed=48, context=16),
    )
    model = TwoTowers(shape).eval()
    found = ZeroShotClassifier(model, ClipTokenizer(16), LABELS, precision="float32")
    few = ZeroShotClassifier(model, ClipTokenizer(16), LABELS[:2], precision="float32")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(found(images)[:, :2], few(images), rtol=0, atol=1e-6)
    with torch.no_grad():
        expected = (model.logits(model.encode_image(images), found.embeddings)).sigmoid()
    torch.testing.assert_close(found(images), expected, rtol=0, atol=1e-6)


def test_bfloat16_decides_alike(towers: tuple[TwoTowers, nn.Module]) -> None:
    exact = ZeroShotClassifier(towers[0], ClipTokenizer(), LABELS, SENTENCES, "float32")
    quick = ZeroShotClassifier(towers[0], ClipTokenizer(), LABELS, SENTENCES, "bfloat16")
    images = torch.randn(8, 3, 224, 224)
    assert quick.scale == exact.scale
    assert (quick(images) - exact(images)).abs().max() < 0.02


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([], "no labels"),
        (["cat", " "], "one of them is empty"),
        (["cat", "dog", " cat"], "'cat' comes twice"),
    ],
)
def test_labels_that_cannot_be(towers: tuple[TwoTowers, nn.Module], labels: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ZeroShotClassifier(towers[0], ClipTokenizer(), labels)


def test_sentences() -> None:
    assert len(templates("openai")) == 80
    assert len(imagenet_labels()) == 1000
    assert templates("a {}!") == ("a {}!",)
    with pytest.raises(InputError, match="no place for the label in 'a photo'"):
        templates("a photo")
