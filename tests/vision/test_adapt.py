"""Which weights are trained: heads, last blocks, norms and biases, LoRA and DoRA by peft, merged again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_mae_task import fit, load, recipe
from torch import nn

from core.errors import InputError
from core.train.adapt import Adapt, Head, Last, LoRA, NormAndBias, load_adapter, save_adapter
from core.train.rebuild import rebuild
from vision.vit import ViT, ViTConfig

__all__ = ["recipe"]  # a fixture

SHAPE: dict[str, Any] = {"patch": 4, "channels": 1, "dim": 16, "depth": 3, "heads": 2, "classes": 4}
CONFIG = ViTConfig(image=(8, 8), **SHAPE)


def trained(adapt: Adapt, model: nn.Module) -> set[str]:
    adapt(model)
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_parts() -> None:
    head = {"head.weight", "head.bias"}
    top = {"norm.weight", "norm.bias", *head}
    assert trained(Head(), ViT(CONFIG)) == head
    assert trained(Last(0), ViT(CONFIG)) == top
    names = {name for name, _ in ViT(CONFIG).named_parameters()}
    assert trained(Last(2), ViT(CONFIG)) == top | {n for n in names if n.startswith(("blocks.1.", "blocks.2."))}
    last = trained(NormAndBias(), ViT(CONFIG))
    assert "blocks.0.attn.norm.weight" in last
    assert last == {n for n in names if n.endswith(".bias") or ".norm." in n or n.startswith(("norm.", "head."))}
    with pytest.raises(InputError, match="last 4 blocks are to be trained, but the model has 3"):
        Last(4)(ViT(CONFIG))
    with pytest.raises(InputError, match="Linear has no head"):
        Head()(nn.Linear(2, 2))


def shaken(model: nn.Module) -> nn.Module:
    """Adapters begin as no change at all: move whatever is trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_begin_as_nothing_and_merge_exactly(dora: bool) -> None:
    model, plain = ViT(CONFIG).eval(), ViT(CONFIG).eval()
    plain.load_state_dict(model.state_dict())
    adapt = LoRA(rank=3, alpha=6, dora=dora)
    names = trained(adapt, model)
    assert {n for n in names if "lora" not in n} == {"head.weight", "head.bias"}
    # 6 layers in each of 3 blocks: A and B, and DoRA's magnitude
    assert len(names) == 2 + 18 * (3 if dora else 2)
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(images), plain(images), rtol=1e-5, atol=1e-6)
        expected = shaken(model)(images)
        assert float((expected - plain(images)).abs().max()) > 1e-2
        adapt.merge(model)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_lora_in_closed_form() -> None:
    """W + alpha / rank * B A, in double precision."""
    model = ViT(CONFIG).double()
    adapt = LoRA(rank=2, alpha=5, targets=("v.proj",), also=())
    assert all(".v.proj." in name for name in trained(adapt, model))
    shaken(model)
    layer = model.get_submodule("blocks.1.attn.fn.v.proj")
    state = dict(layer.named_parameters())
    expected = state["base_layer.weight"] + 2.5 * state["lora_B.default.weight"] @ state["lora_A.default.weight"]
    adapt.merge(model)
    torch.testing.assert_close(model.get_parameter("blocks.1.attn.fn.v.proj.weight"), expected)


def test_only_the_adapter_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(5)
    one = ViT(CONFIG)
    other = ViT(CONFIG)
    other.load_state_dict(one.state_dict())
    LoRA(rank=2)(one)
    LoRA(rank=2)(other)
    shaken(one)
    save_adapter(one, tmp_path / "adapter.safetensors")
    load_adapter(other, tmp_path / "adapter.safetensors")
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(one(images), other.eval()(images))
    whole = sum(p.numel() for p in one.parameters())
    assert (tmp_path / "adapter.safetensors").stat().st_size < 4 * whole
    narrow = ViT(CONFIG)
    LoRA(rank=1)(narrow)
    with pytest.raises(InputError, match="doesn't fit what the model trains"):
        load_adapter(narrow, tmp_path / "adapter.safetensors")
    with pytest.raises(InputError, match="nothing to adapt"):
        LoRA(targets=("nowhere",))(ViT(CONFIG))
    with pytest.raises(InputError, match="rank 0"):
        LoRA(rank=0)


def test_a_training_with_adapters(recipe: Callable[..., Path]) -> None:
    model = {"class_path": "vision.vit.ViT", "init_args": {"config": {"image": [8, 8], **SHAPE}}}
    adapt = {"class_path": "core.train.adapt.LoRA", "init_args": {"rank": 2, "dora": True}}
    arguments = {"model": model, "classes": 4, "optim": {"lr": 0.01}, "ema": 0.5, "adapt": adapt}
    path = recipe("lora", "vision.tasks.classify.Classify", arguments, max_epochs=2)
    folder = fit(path)
    state = load(folder / "last.ckpt")["state_dict"]
    assert any("lora_A" in name for name in state)
    assert not any(name.startswith("ema.") and "lora" not in name and "head" not in name for name in state)
    resumed = fit(path, "--ckpt_path", str(folder / "last.ckpt"), "--trainer.max_epochs", "3")
    assert load(resumed / "last.ckpt")["global_step"] == 15
    merged = rebuild(folder / "last.ckpt").model
    assert merged.state_dict().keys() == ViT(CONFIG).state_dict().keys()
    weight = merged.get_parameter("blocks.0.mlp.fn.fc1.weight")
    assert not torch.equal(weight, state["model.blocks.0.mlp.fn.fc1.base_layer.weight"])
