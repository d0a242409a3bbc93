"""``sensorium interpolate``: WiSE-FT's average, for encoders and for two towers."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from core.weights import Bundle, save_bundle
from multimodal.text import TextConfig
from multimodal.two_towers import TwoTowers, TwoTowersConfig
from sensorium import load
from sensorium.cli import main
from sensorium.towers import open_towers
from vision.vit import ViT, ViTConfig

SHAPE = ViTConfig(image=(16, 16), patch=8, dim=16, depth=1, heads=2, classes=0)
TEXT = TextConfig(context=8, dim=16, depth=1, heads=2, embed=12)


def encoder(folder: Path, seed: int, config: ViTConfig = SHAPE) -> None:
    torch.manual_seed(seed)
    save_bundle(folder, ViT(config), Bundle("vision.ViT", asdict(config)))


def towers(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    config = TwoTowersConfig(SHAPE, TEXT)
    save_bundle(folder, TwoTowers(config), Bundle("multimodal.TwoTowers", asdict(config)))


def test_weights_lie_between(tmp_path: Path) -> None:
    a, b, out = (str(tmp_path / name) for name in "abo")
    encoder(tmp_path / "a", 0)
    encoder(tmp_path / "b", 1)
    assert main(["interpolate", a, b, "-o", out, "--share", "0.25"]) == 0
    one, two, found = (load(path).state_dict() for path in (a, b, out))
    for name, tensor in found.items():
        assert torch.allclose(tensor, 0.75 * one[name] + 0.25 * two[name], atol=1e-7), name


def test_towers(tmp_path: Path) -> None:
    a, b, out = (str(tmp_path / name) for name in "abo")
    towers(tmp_path / "a", 0)
    towers(tmp_path / "b", 1)
    assert main(["interpolate", a, b, "-o", out]) == 0
    one, two, found = (open_towers(path).model.state_dict() for path in (a, b, out))
    assert all(torch.allclose(found[name], (one[name] + two[name]) / 2, atol=1e-7) for name in found)


def test_other_shapes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder(tmp_path / "a", 0)
    encoder(tmp_path / "b", 0, ViTConfig(image=(16, 16), patch=8, dim=32, depth=1, heads=2, classes=0))
    towers(tmp_path / "c", 0)
    for other, said in (("b", "different shapes"), ("c", "reads texts")):
        assert main(["interpolate", str(tmp_path / "a"), str(tmp_path / other), "-o", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
