"""Recall among the first k against open_clip's, and against what a loop says."""

import pytest
import torch
import torch.nn.functional as F
from open_clip_train.train import get_clip_metrics
from torch import Tensor

from multimodal.retrieval import recall_at


def pairs(count: int) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(0)
    image = torch.randn(count, 16, generator=make)
    return F.normalize(image, dim=1), F.normalize(image + torch.randn(count, 16, generator=make), dim=1)


def test_equal_to_open_clips() -> None:
    image, text = pairs(300)
    expected = get_clip_metrics(image, text, torch.tensor(1.0))
    for name, value in recall_at(image, text, chunk=64).items():
        assert value == pytest.approx(expected[name]), name


def test_several_texts_of_an_image() -> None:
    image, text = pairs(40)
    owner = torch.arange(40) // 3  # images 14 to 39 have no text
    found = recall_at(image, text, owner, ks=(1, 3), chunk=7)
    similar = image @ text.T
    for k in (1, 3):
        hits = [bool((owner[similar[i].topk(k).indices] == i).any()) for i in range(14)]
        back = [int(owner[j]) in similar[:, j].topk(k).indices.tolist() for j in range(40)]
        assert found[f"image_to_text_R@{k}"] == pytest.approx(sum(hits) / len(hits))
        assert found[f"text_to_image_R@{k}"] == pytest.approx(sum(back) / len(back))


def test_collapsed_features_find_nothing() -> None:
    same = F.normalize(torch.ones(20, 4), dim=1)
    assert set(recall_at(same, same).values()) == {0.0}


def test_what_does_not_fit() -> None:
    image, text = pairs(3)
    with pytest.raises(ValueError, match="don't fit together"):
        recall_at(image, text, torch.tensor([0, 1, 3]))
