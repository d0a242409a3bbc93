"""Flamingo's resampler against Idefics', its frames, its padding, and both name tables."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from core.nn import LayerNorm, padded_tokens
from core.weights import Table, load_into
from multimodal.resampler import IDEFICS, OPEN_FLAMINGO, Resampler

sys.path.append(str(Path(__file__).parents[1] / "nn"))
from peer import assert_equal_modules

DIM = 16


@pytest.mark.parametrize("normed", [False, True])
def test_equals_idefics(normed: bool) -> None:
    module = pytest.importorskip("transformers.models.idefics.modeling_idefics")
    resampler = pytest.importorskip("transformers.models.idefics.perceiver")
    config = module.IdeficsConfig(hidden_size=DIM, vision_config={"embed_dim": DIM})
    config.perceiver_config.qk_layer_norms_perceiver = normed
    theirs = resampler.IdeficsPerceiverResampler(config, DIM, 2, 2, 6, 4)
    ours = Resampler(DIM, 2, 2, 4, head_dim=6, act=nn.ReLU, norm=LayerNorm if normed else None)
    table = Table("idefics", IDEFICS)
    memory = torch.randn(2, 7, DIM)
    assert_equal_modules(ours, theirs, table.load, [memory], ours, theirs)
    assert table.export(ours.state_dict()).keys() == theirs.state_dict().keys()


def test_padding_is_not_looked_at_and_frames_differ() -> None:
    torch.manual_seed(0)
    model = Resampler(DIM, 2, 2, 4, memory_dim=10, frames=3).double()
    memory = torch.randn(2, 7, 10).double()
    alone = model(memory[:1, :5])
    together = model(memory, padded_tokens(torch.tensor([5, 7]), 7))
    torch.testing.assert_close(together[:1], alone)
    video = torch.randn(1, 3, 5, 10).double()
    assert not torch.allclose(model(video), model(video.flip(1)))
    model.frames.data.zero_()
    torch.testing.assert_close(model(video), model(video.flatten(1, 2)))
    with pytest.raises(ValueError, match="4 frames"):
        model(torch.randn(1, 4, 5, 10).double())


def test_open_flamingo_names_go_both_ways() -> None:
    model = Resampler(DIM, 1, 2, 4)
    theirs = {
        "latents": (4, DIM), "layers.0.0.norm_media.weight": (DIM,), "layers.0.0.norm_media.bias": (DIM,),
        "layers.0.0.norm_latents.weight": (DIM,), "layers.0.0.norm_latents.bias": (DIM,),
        "layers.0.0.to_q.weight": (DIM, DIM), "layers.0.0.to_kv.weight": (2 * DIM, DIM),
        "layers.0.0.to_out.weight": (DIM, DIM), "layers.0.1.0.weight": (DIM,), "layers.0.1.0.bias": (DIM,),
        "layers.0.1.1.weight": (4 * DIM, DIM), "layers.0.1.3.weight": (DIM, 4 * DIM),
        "norm.weight": (DIM,), "norm.bias": (DIM,),
    }  # fmt: skip
    tensors = {name: torch.randn(shape) for name, shape in theirs.items()}
    table = Table("openflamingo", OPEN_FLAMINGO)
    source = load_into(model, table, tensors)
    back = table.export(model.state_dict(), source)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
