"""DiT and MMDiT compute what diffusers' models compute, forward and backward, and their weights leave as they came."""

import json
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from core.errors import InputError
from diffusion.condition import Labels, Text, joined
from diffusion.dit import DiT
from diffusion.mmdit import MMDiT
from diffusion.presets import dit, dit_config
from diffusion.weights import export_denoiser, load_denoiser

TEXT: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "caption_projection_dim": 64,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 12,
}


def _random(model: nn.Module) -> None:
    """Nothing is zero, as it is in a model that was never trained, and nothing explodes."""
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, 1.0 if name.endswith(("norm_q.weight", "norm_k.weight")) else 0.0, 0.05)


def _peer_dit(**sizes: Any) -> nn.Module:
    """A model of diffusers whose blocks share the embeddings of time and class, as those converted from DiT do."""
    torch.manual_seed(0)
    peer = diffusers.DiTTransformer2DModel(**sizes)
    _random(peer)
    for block in peer.transformer_blocks:
        block.norm1.emb.load_state_dict(peer.transformer_blocks[0].norm1.emb.state_dict())
    return peer.eval()  # in training it drops labels


def _gradients(model: DiT | MMDiT, path: Path, source: Any, layout: str) -> dict[str, Tensor]:
    """The gradients under the peer's names: the table translates them as it does the weights."""
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad
    export_denoiser(model, path, source, layout)
    return load_file(path)


def _close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        # that of a bias of keys is zero but for rounding
        assert (found[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max() + 1e-5, name


def _gradients_of_dit(peer: nn.Module) -> dict[str, Tensor]:
    """Those of the embeddings, which every block has for itself, added up under the name of the first."""
    found: dict[str, Tensor] = {}
    for name, parameter in peer.named_parameters():
        if parameter.grad is not None:
            first = re.sub(r"blocks\.\d+\.norm1\.emb", "blocks.0.norm1.emb", name)
            found[first] = parameter.grad + found.get(first, 0)
    return found


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_attention_heads": 6, "attention_head_dim": 64, "num_layers": 12, "out_channels": 8, "sample_size": 16},
        {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 2, "out_channels": 8, "sample_size": 16},
        {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "patch_size": 4, "norm_eps": 1e-3},
    ],
    ids=["S/2", "XL/2-shaped", "tiny"],
)
def test_dit_computes_what_diffusers_does(sizes: dict[str, Any], tmp_path: Path) -> None:
    peer = _peer_dit(**{"num_embeds_ada_norm": 10, **sizes})
    peer.save_pretrained(tmp_path)
    ours, _ = load_denoiser(tmp_path)
    side = peer.config.sample_size
    x, t, index = torch.randn(2, 4, side, side), torch.tensor([3.0, 700.0]), torch.tensor([7, 10])
    expected = peer(x, t, index).sample
    found = ours(x, t, Labels(index))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    _close(_gradients(ours, tmp_path / "gradients.safetensors", None, "diffusers-dit"), _gradients_of_dit(peer))


@pytest.mark.parametrize("more", [{}, {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}], ids=["3", "3.5"])
def test_mmdit_computes_what_diffusers_does(more: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    peer = diffusers.SD3Transformer2DModel(**TEXT, **more).eval()
    _random(peer)
    peer.save_pretrained(tmp_path)
    ours, origin = load_denoiser(tmp_path)
    x, t = torch.randn(2, 4, 16, 12), torch.tensor([30.0, 700.0])  # another size than the configured one
    text = Text(torch.randn(2, 7, 24), torch.randn(2, 20))
    expected = peer(x, text.states, text.pooled, t).sample
    found = ours(x, t, text)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    last = f"blocks.{ours.config.depth - 1}.joint.fn.parts.1.q."  # of queries that nobody asks
    for name, parameter in ours.named_parameters():
        if name.startswith(last):
            assert parameter.grad is None
            parameter.grad = torch.zeros_like(parameter)
    gradients = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    _close(_gradients(ours, tmp_path / "gradients.safetensors", origin.source, ""), gradients)


def test_new_models_have_the_positions_of_diffusers() -> None:
    from diffusion.mmdit import MMDiTConfig

    peer = diffusers.SD3Transformer2DModel(**TEXT)
    ours = MMDiT(MMDiTConfig((16, 16), 4, depth=1, heads=4, head_dim=16, text_dim=24, pooled_dim=20, most=12))
    torch.testing.assert_close(ours.positions.table, peer.pos_embed.pos_embed[0], atol=1e-6, rtol=0)


def test_padding_of_a_text_changes_nothing() -> None:
    from diffusion.mmdit import MMDiTConfig

    torch.manual_seed(0)
    model = MMDiT(MMDiTConfig((8, 8), 4, depth=3, heads=2, head_dim=8, text_dim=6, pooled_dim=5, most=8, dual=(0,)))
    _random(model)
    long, short = (Text(torch.randn(1, length, 6), torch.randn(1, 5)) for length in (9, 4))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([10.0, 600.0])
    both = model(x, t, joined([long, short]))
    alone = torch.cat([model(x[:1], t[:1], long), model(x[1:], t[1:], short)])
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-5)


def _same_bytes(path: Path, tensors: dict[str, Tensor]) -> None:
    back = load_file(path)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes(), name


def _published(depth: int = 2, dim: int = 32, patch: int = 2) -> dict[str, Tensor]:
    """A state dict with the names and shapes that ``models.py`` of facebookresearch/DiT gives."""
    make = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 16, dim),
        "x_embedder.proj.weight": (dim, 4, patch, patch),
        "x_embedder.proj.bias": (dim,),
        "t_embedder.mlp.0.weight": (dim, 256),
        "t_embedder.mlp.0.bias": (dim,),
        "t_embedder.mlp.2.weight": (dim, dim),
        "t_embedder.mlp.2.bias": (dim,),
        "y_embedder.embedding_table.weight": (11, dim),
        "final_layer.linear.weight": (patch * patch * 8, dim),
        "final_layer.linear.bias": (patch * patch * 8,),
        "final_layer.adaLN_modulation.1.weight": (2 * dim, dim),
        "final_layer.adaLN_modulation.1.bias": (2 * dim,),
    }
    layers = {
        "attn.qkv": (3 * dim, dim),
        "attn.proj": (dim, dim),
        "mlp.fc1": (4 * dim, dim),
        "mlp.fc2": (dim, 4 * dim),
        "adaLN_modulation.1": (6 * dim, dim),
    }
    for i in range(depth):
        for name, shape in layers.items():
            shapes[f"blocks.{i}.{name}.weight"], shapes[f"blocks.{i}.{name}.bias"] = shape, shape[:1]
    return {name: torch.randn(shape, generator=make) for name, shape in shapes.items()}


def test_published_dit_returns_byte_for_byte(tmp_path: Path) -> None:
    tensors = _published()
    torch.save(tensors, tmp_path / "DiT.pt")
    model, origin = load_denoiser(tmp_path / "DiT.pt")
    assert isinstance(model, DiT)
    assert (model.config.classes, model.config.outputs, model.config.image) == (10, 8, (8, 8))
    export_denoiser(model, tmp_path / "back.safetensors", origin.source)
    _same_bytes(tmp_path / "back.safetensors", tensors)


def test_published_sit_returns_byte_for_byte_and_hides_its_spare_channels(tmp_path: Path) -> None:
    tensors = _published()
    torch.save(tensors, tmp_path / "SiT.pt")
    small = {"image": (8, 8), "dim": 32, "depth": 2, "heads": 1, "classes": 10}
    sit, origin = load_denoiser(tmp_path / "SiT.pt", dit_config("SiT-S/2", **small))
    same, _ = load_denoiser(tmp_path / "SiT.pt", dit_config("DiT-S/2", **small))
    x, t, labels = torch.randn(2, 4, 8, 8), torch.rand(2), Labels(torch.tensor([1, 10]))
    torch.testing.assert_close(sit(x, t, labels), same(x, t, labels).chunk(2, 1)[0], atol=0, rtol=0)
    export_denoiser(sit, tmp_path / "back.safetensors", origin.source)
    _same_bytes(tmp_path / "back.safetensors", tensors)


def test_models_of_diffusers_return_byte_for_byte(tmp_path: Path) -> None:
    peers = {
        "dit": _peer_dit(num_attention_heads=2, attention_head_dim=16, num_layers=3, num_embeds_ada_norm=5).half(),
        "sd3": diffusers.SD3Transformer2DModel(**TEXT, qk_norm="rms_norm", dual_attention_layers=(0,)).half(),
    }
    for name, peer in peers.items():
        peer.save_pretrained(tmp_path / name)
        model, origin = load_denoiser(tmp_path / name)
        export_denoiser(model, tmp_path / "back.safetensors", origin.source)
        _same_bytes(tmp_path / "back.safetensors", load_file(tmp_path / name / "diffusion_pytorch_model.safetensors"))


def test_a_pipeline_tells_its_labels(tmp_path: Path) -> None:
    peer = _peer_dit(num_attention_heads=2, attention_head_dim=16, num_layers=1, num_embeds_ada_norm=2)
    peer.save_pretrained(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text(json.dumps({"id2label": {"0": "tench", "1": "goldfish"}}))
    assert load_denoiser(tmp_path)[1].labels == ("tench", "goldfish")


def test_what_does_not_fit_is_said_in_one_line(tmp_path: Path) -> None:
    peer = _peer_dit(num_attention_heads=2, attention_head_dim=16, num_layers=2, num_embeds_ada_norm=5)
    nn.init.zeros_(peer.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight)
    peer.save_pretrained(tmp_path / "own")
    with pytest.raises(InputError, match=r"should equal transformer_blocks\.0\.norm1\.emb\.class_embedder"):
        load_denoiser(tmp_path / "own")
    tensors = _published()
    del tensors["blocks.1.attn.qkv.bias"]
    torch.save(tensors, tmp_path / "DiT.pt")
    with pytest.raises(InputError, match=r"missing: blocks.1.attn.qkv.bias"):
        load_denoiser(tmp_path / "DiT.pt")
    with pytest.raises(InputError, match="no DiT preset 'DiT-M/2'"):
        dit("DiT-M/2")
