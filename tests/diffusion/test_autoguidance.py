"""A worse model guides: the formula of the paper, the command, and models that don't fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import FLOW, GAUSSIAN, small_bundle

from core.errors import InputError
from diffusion.guides import check_guide
from diffusion.latents import Pixels
from sensorium.cli import main
from sensorium.generators import open_generator
from sensorium.made_pictures import read_settings


def worse(folder: Path, **changes: object) -> Path:
    """A bundle of a smaller model."""
    return small_bundle(folder, **{"depth": 1, **changes})  # type: ignore[arg-type]


def test_the_guide_is_what_guidance_leads_away_from(tmp_path: Path) -> None:
    """Euler's steps of weak + w (strong - weak), both told the class (arXiv:2406.02507, equation 4)."""
    strong, weak = open_generator(small_bundle(tmp_path / "strong")), open_generator(worse(tmp_path / "weak"))
    generator = strong.generator("float32")
    settings = generator.with_settings(guidance=2.5, steps=4)
    (drawn,) = generator.draw([2], [9], settings, guide=weak.generator("float32"))
    x = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(9))[None]
    told = generator.condition([2])
    with torch.no_grad():
        for step in range(4):
            t = torch.tensor([step / 4])
            good, bad = strong.model(x, t, told), weak.model(x, t, told)
            x = x + (bad + 2.5 * (good - bad)) / 4
    expected = ((x + 1) * 127.5).round().clamp(0, 255)[0, 0]
    assert (drawn[..., 0].float() - expected).abs().max() <= 1
    (itself,) = generator.draw([2], [9], settings, guide=generator)
    (alone,) = generator.draw([2], [9], replace(settings, guidance=1.0))
    assert (itself.int() - alone.int()).abs().max() <= 1


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    small_bundle(tmp_path / "strong")
    worse(tmp_path / "weak")
    worse(tmp_path / "few", labels=("a", "b"), classes=2)
    command = ["generate", "-m", "strong", "-p", "float32", "-c", "trouser", "-n", "1"]
    assert main([*command, "-o", "plain"]) == 0
    assert main([*command, "-o", "guided", "--guide", "weak"]) == 0
    first, second = (np.asarray(Image.open(f"{out}/trouser_0000.png")) for out in ("plain", "guided"))
    assert (first != second).any()
    plain, guided = (read_settings(Path(out) / "trouser_0000.png") or {} for out in ("plain", "guided"))
    assert (guided["guide"], guided["guidance"], len(guided["guide_weights"])) == ("weak", 2.0, 16)
    assert "guide" not in plain
    capsys.readouterr()
    assert main([*command, "-o", "none", "--guide", "few"]) == 2
    assert "that model can't guide this one: its classes is 2, not 4" in capsys.readouterr().err
    assert not Path("none").exists()


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    flow = open_generator(small_bundle(tmp_path / "flow", FLOW)).generator("float32")
    gaussian = open_generator(small_bundle(tmp_path / "gaussian", GAUSSIAN)).generator("float32")
    check_guide(flow, open_generator(worse(tmp_path / "weak")).generator("float32"))
    times = {"class_path": "diffusion.process.LogitNormal"}
    other = small_bundle(tmp_path / "times", {**FLOW, "init_args": {"sampled": times}})
    check_guide(flow, open_generator(other).generator("float32"))  # how often a time was trained is no matter
    with pytest.raises(InputError, match=r"its process is Gaussian\(.*, not Flow\("):
        check_guide(flow, gaussian)
    other = small_bundle(tmp_path / "shifted", {**FLOW, "init_args": {"shift": 3.0}})
    with pytest.raises(InputError, match=r"shift=3\.0"):
        check_guide(flow, open_generator(other).generator("float32"))
    flow.latents = Pixels(mean=0.1, channels=1)
    with pytest.raises(InputError, match="its latents is"):
        check_guide(flow, open_generator(tmp_path / "weak").generator("float32"))
