"""Nearest neighbours: scikit-learn's where each has one vote, the formula where votes are weighted."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from core.errors import InputError
from core.train.knn import knn


def clusters(count: int, classes: int = 4, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around one centre for each class, so near to one another that neighbours disagree."""
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return centres[labels] + 1.2 * torch.randn(count, width, dtype=torch.float64), labels


@pytest.mark.parametrize("k", [1, 5, 20])
def test_plain_votes_are_scikit_learns(k: int):
    (known, labels), (asked, _) = clusters(200), clusters(90)
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(known, labels)
    votes = knn(known, labels, asked, 4, k, temperature=None, chunk=32)
    assert torch.equal(votes / k, torch.from_numpy(peer.predict_proba(asked)))
    assert votes.argmax(1).tolist() == peer.predict(asked).tolist()


def test_weighted_votes_are_scikit_learns_with_these_weights():
    (known, labels), (asked, _) = clusters(200), clusters(90)
    peer = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(known, labels)
    votes = knn(known, labels, asked, 4)
    torch.testing.assert_close(votes / votes.sum(1, keepdim=True), torch.from_numpy(peer.predict_proba(asked)))


def test_weighted_votes_by_hand():
    # similarities 1, 0 and -1; the two nearest vote
    known = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    votes = knn(known, torch.tensor([1, 0, 0]), torch.tensor([[0.5, 0.0]]), 3, k=2, temperature=0.5)
    torch.testing.assert_close(votes, torch.tensor([[1.0, torch.e**2, 0.0]]))
    # there are no more than three
    everyone = knn(known, torch.tensor([1, 0, 0]), torch.tensor([[0.5, 0.0]]), 3, k=20, temperature=0.5)
    torch.testing.assert_close(everyone, torch.tensor([[1.0 + torch.e**-2, torch.e**2, 0.0]]))


def test_chunks_change_nothing():
    (known, labels), (asked, _) = clusters(50), clusters(33)
    torch.testing.assert_close(knn(known, labels, asked, 4, chunk=7), knn(known, labels, asked, 4))
    assert knn(known, labels, asked[:0], 4).shape == (0, 4)


def test_what_cannot_be():
    known, labels = clusters(8)
    for change, message in (({"k": 0}, "at least 1"), ({"temperature": 0.0}, "positive"), ({"classes": 3}, "0..2")):
        with pytest.raises(InputError, match=message):
            knn(**{"train_features": known, "train_labels": labels, "features": known, "classes": 4, **change})
