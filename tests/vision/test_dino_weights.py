"""Whole training checkpoints of dino and dinov2: student, teacher, heads and centre, both ways."""

import argparse
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from core.errors import InputError
from vision.dino_head import DINOHead, HeadConfig
from vision.dino_weights import Network, export_network, load_training
from vision.vit import ViT, ViTConfig

SIZE = {"dim": 16, "depth": 2, "heads": 2, "image": (16, 16), "patch": 8, "classes": 0}


def theirs(seed: int, dinov2: bool = False) -> dict[str, Tensor]:
    """Tensors as dino or dinov2 store them."""
    torch.manual_seed(seed)
    more = {"init_values": 0.1, "reg_tokens": 2} if dinov2 else {}
    backbone = timm.models.VisionTransformer(16, 8, 3, 0, "token", 16, 2, 2, **more).state_dict()
    if dinov2:
        backbone["register_tokens"] = backbone.pop("reg_token")
        backbone["pos_embed"] = torch.randn(1, 5, 16)
        backbone["mask_token"] = torch.randn(1, 16)
    found = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    for head in ("dino_head", "ibot_head") if dinov2 else ("head",):
        for layer, (rows, columns) in enumerate([(12, 16), (12, 12), (6, 12)]):
            found[f"{head}.mlp.{2 * layer}.weight"] = torch.randn(rows, columns)
            found[f"{head}.mlp.{2 * layer}.bias"] = torch.randn(rows)
        found[f"{head}.last_layer.weight_g"] = torch.rand(20, 1) + 0.5
        found[f"{head}.last_layer.weight_v"] = torch.randn(20, 6)
    return found


def network(*heads: str, **more: object) -> Network:
    model = ViT(ViTConfig(**{**SIZE, **more}))  # type: ignore[arg-type]
    return Network(model, {head: DINOHead(16, HeadConfig(20, 12, 6)) for head in heads})


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_dino(tmp_path: Path) -> None:
    student, teacher, centre = theirs(0), theirs(1), torch.randn(1, 20)
    wrapped = {f"module.{name}": tensor for name, tensor in student.items()}
    args = argparse.Namespace(arch="vit_small", lr=0.1)
    content = {"student": wrapped, "teacher": teacher, "dino_loss": {"center": centre}, "args": args, "epoch": 3}
    torch.save(content, tmp_path / "checkpoint.pth")
    mine, taught, value = network("dino"), network("dino"), torch.zeros(20)
    load_training(tmp_path / "checkpoint.pth", mine, taught, value)
    same(export_network(mine, "dino"), student)
    same(export_network(taught, "dino"), teacher)
    assert torch.equal(value, centre[0])
    # and the numbers are right, not only the names
    timms = timm.models.VisionTransformer(16, 8, 3, 0, "token", 16, 2, 2).eval()
    timms.load_state_dict({n.removeprefix("backbone."): t for n, t in teacher.items() if n.startswith("backbone.")})
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(taught.model.eval()(images), timms(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunked", [False, True])
def test_dinov2(tmp_path: Path, chunked: bool) -> None:
    teacher = theirs(2, dinov2=True)
    stored = {n.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0."): t for n, t in teacher.items()}
    torch.save({"teacher": stored if chunked else teacher}, tmp_path / "teacher_checkpoint.pth")
    more = {"registers": 2, "layer_scale": 1e-5, "mask_token": True, "positions": "no registers"}
    mine, taught = network("dino", "ibot", **more), network("dino", "ibot", **more)
    load_training(tmp_path / "teacher_checkpoint.pth", mine, taught)
    same(export_network(taught), teacher)
    same(export_network(mine), teacher)


def test_what_does_not_fit_is_said_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    tensors = theirs(0)
    mine, taught = network("dino"), network("dino")
    before = {name: tensor.clone() for name, tensor in export_network(mine, "dino").items()}

    def refused(teacher: dict[str, Tensor], match: str) -> None:
        torch.save({"student": theirs(1), "teacher": teacher}, path)
        with pytest.raises(InputError, match=match):
            load_training(path, mine, taught)
        same(export_network(mine, "dino"), before)

    refused({**tensors, "predictor.weight": torch.ones(1)}, "predictor.weight is neither")
    refused({**tensors, "head.last_layer.weight_v": torch.ones(21, 6)}, "last_layer.weight_v")
    refused({n: t for n, t in tensors.items() if n != "backbone.norm.weight"}, "norm.weight")
    refused({f"{n}".replace("head.", "ibot_head."): t for n, t in tensors.items()}, "neither|head")
    torch.save({"model": tensors, "other": tensors}, path)
    with pytest.raises(InputError, match="model, other"):
        load_training(path, mine, taught)
    with pytest.raises(InputError, match="no place for the head ibot"):
        export_network(network("dino", "ibot"), "dino")
