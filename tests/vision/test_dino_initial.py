"""Self-distillation goes on from an encoder that another training made: teacher = student = that encoder."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from selfdistill import HEAD, SHAPE, fit, load

from core.errors import InputError
from core.train.course import Cosine
from core.train.optim import Optim
from core.weights import Bundle, save_bundle
from vision.mae import MAEConfig, MaskedAutoencoder
from vision.tasks.dino import DINO
from vision.tasks.dinov2 import DINOv2
from vision.tasks.initial import Pretrained
from vision.tasks.self_distillation import SelfDistillation
from vision.vit import ViT, ViTConfig


@pytest.fixture
def pretrained(tmp_path: Path) -> tuple[MaskedAutoencoder, Pretrained]:
    """A masked autoencoder, and its bundle to begin with."""
    torch.manual_seed(0)
    config = MAEConfig(ViTConfig(**SHAPE, positions="sincos"), dim=8, depth=1, heads=2)
    model = MaskedAutoencoder(config)
    save_bundle(tmp_path / "mae", model, Bundle("vision.MaskedAutoencoder", asdict(config)))
    return model, Pretrained(str(tmp_path / "mae"))


@pytest.mark.parametrize("kind", [DINO, DINOv2])
def test_teacher_and_student_are_the_encoder(
    kind: type[DINO] | type[DINOv2], pretrained: tuple[MaskedAutoencoder, Pretrained], tmp_path: Path
) -> None:
    model, initial = pretrained
    torch.manual_seed(1)
    vit = ViT(ViTConfig(**SHAPE, positions="sincos", mask_token=kind is DINOv2))
    task: SelfDistillation = kind(vit, HEAD, optim=Optim(lr=0.0), momentum=Cosine(1.0, 1.0), initial=initial)
    fit(task, tmp_path, (1,))  # steps that change nothing
    saved = load(tmp_path, 1)["state_dict"]
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(saved[f"teacher.model.{name}"], weight), name
        assert torch.equal(saved[f"model.{name}"], weight), name


def test_one_beginning_is_enough(pretrained: tuple[MaskedAutoencoder, Pretrained]) -> None:
    with pytest.raises(InputError, match=r"either with start .* or with initial"):
        DINO(ViT(ViTConfig(**SHAPE)), HEAD, start="teacher.pth", initial=pretrained[1])
