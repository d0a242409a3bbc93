"""The stem of convolutions against PyTorch's own modules, written out."""

import pytest
import torch
from torch import nn

from core.nn import ConvStem


def test_stem_equals_convolutions_written_out() -> None:
    torch.manual_seed(0)
    stem = ConvStem(3, 24, 8).double()
    layers: list[nn.Module] = []
    for narrow, wide in ((3, 6), (6, 12), (12, 24)):
        layers += [nn.Conv2d(narrow, wide, 3, 2, 1, bias=False), nn.GroupNorm(1, wide), nn.GELU()]
    theirs = nn.Sequential(*layers, nn.Conv2d(24, 24, 1)).double()
    for ours, other in zip(stem.parameters(), theirs.parameters(), strict=True):
        with torch.no_grad():
            other.copy_(ours.view_as(other))
    images = torch.randn(2, 3, 16, 32, dtype=torch.double)
    wanted = theirs(images)  # (2, 24, 2, 4)
    found = stem(images)
    assert stem.grid(images) == (2, 4)
    assert torch.allclose(found, wanted.flatten(2).transpose(1, 2), atol=1e-12)
    keep = torch.tensor([[5, 0], [7, 1]])
    assert torch.allclose(stem(images, keep), torch.stack([row[kept] for row, kept in zip(found, keep, strict=True)]))


def test_what_a_stem_can_not_do_is_said() -> None:
    with pytest.raises(ValueError, match="power of 2"):
        ConvStem(3, 24, 7)
    with pytest.raises(ValueError, match="divisible by half"):
        ConvStem(3, 6, 8)
    with pytest.raises(ValueError, match="do not divide"):
        ConvStem(3, 8, 4)(torch.zeros(1, 3, 10, 8))
