"""``sensorium generate --prompt``: files for each text and seed, what made them, and errors of one line."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from told_pictures import CLIP, ROOT, small_bundle

import sensorium
from core.errors import InputError
from sensorium.cli import main
from sensorium.generating import text_slugs
from sensorium.generators import open_generator
from sensorium.made_pictures import read_settings
from sensorium.towers import is_towers


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the bundle `told`."""
    monkeypatch.chdir(tmp_path)
    small_bundle(tmp_path / "told")
    return tmp_path


def generate(*arguments: str, model: str = "told") -> int:
    return main(["generate", "-m", model, "-p", "float32", *arguments])


def near(first: Path | str, second: Path | str) -> bool:
    """Sums inside matrix products may come in another order in another batch."""
    pictures = [np.asarray(Image.open(path)).astype(int) for path in (first, second)]
    return int(abs(pictures[0] - pictures[1]).max()) <= 1


def test_a_file_for_each_text_and_seed(folder: Path, capsys: pytest.CaptureFixture) -> None:
    asked = ["--prompt", "a photo of a sneaker", "--prompt", "Ankle boot!", "-n", "2", "-s", "3", "-o", "out"]
    assert generate(*asked) == 0
    names = ["a_photo_of_a_sneaker_0003.png", "a_photo_of_a_sneaker_0004.png", "ankle_boot_0003.png"]
    names += ["ankle_boot_0004.png", "sheet.png"]
    assert sorted(path.name for path in Path("out").iterdir()) == names
    said = read_settings(Path("out/ankle_boot_0004.png")) or {}
    assert (said["prompt"], said["seed"], said["steps"], said["guidance"]) == ("Ankle boot!", 4, 4, 2.0)
    assert "class" not in said
    # alone, and with a longer text beside it
    assert generate("--prompt", "Ankle boot!", "-n", "1", "-s", "4", "-o", "one") == 0
    long = "a bright and wide leather boot on a black background"
    assert generate("--prompt", long, "--prompt", "Ankle boot!", "-n", "1", "-s", "4", "-o", "two") == 0
    assert near("out/ankle_boot_0004.png", "one/ankle_boot_0004.png")
    assert near("out/ankle_boot_0004.png", "two/ankle_boot_0004.png")
    assert not near("out/ankle_boot_0004.png", "out/a_photo_of_a_sneaker_0004.png")
    # what was lost is drawn again, the others are kept
    Path("out/ankle_boot_0003.png").unlink()
    capsys.readouterr()
    assert generate(*asked) == 0
    assert capsys.readouterr().out == "out: 4 pictures, 3 of them from before, and sheet.png\n"
    assert generate(*[*asked[:3], "ankle boot", *asked[4:]]) == 2
    assert "made otherwise (prompt Ankle boot!, not ankle boot)" in capsys.readouterr().err


def test_names_of_files() -> None:
    found = text_slugs(["a coat", "A coat", "x" * 70, "!?", "a bag"])
    assert found["a bag"] == "a_bag"
    assert len(set(found.values())) == 5
    assert found["a coat"].startswith("a_coat_")
    assert len(found["x" * 70]) == 60 + 9


def test_the_bundle_needs_nothing_else(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", "told", "-o", "again"]) == 0
    assert "predictions differ by 0.0e+00" in capsys.readouterr().out
    assert sorted(path.name for path in Path("again").iterdir()) == ["config.json", "merges.txt", "model.safetensors"]
    assert not is_towers("again")
    first, second = (open_generator(name) for name in ("told", "again"))
    assert first.fingerprint() == second.fingerprint()
    with torch.no_grad():
        first.prompts.encoder.tower.norm.weight[0] += 0.1
    assert first.fingerprint() != second.fingerprint()


def test_from_python(folder: Path) -> None:
    generator = sensorium.load("told", precision="float32")
    (one,) = generator.generate(prompts="a dress", seed=1)
    both = generator.generate(prompts=["a bag", "a dress", "a bag"], seed=1)
    assert len(both) == 2
    assert abs(np.asarray(one).astype(int) - np.asarray(both[1]).astype(int)).max() <= 1
    half = sensorium.load("told", precision="bfloat16").generate(prompts="a dress", seed=1)
    assert abs(np.asarray(one).astype(int) - np.asarray(half[0]).astype(int)).mean() < 8
    with pytest.raises(InputError, match="ask by a prompt"):
        generator.generate("dress")
    with pytest.raises(InputError, match="ask by a prompt"):
        generator.generate()
    with pytest.raises(InputError, match="this model has positions for up to 8 x 8"):
        generator.generate(prompts="a dress", size=(16, 16))


def test_guidance_leads_away_from_silence(folder: Path) -> None:
    """A closed form: Euler's steps of w v(text) + (1 - w) v(nothing)."""
    opened = open_generator("told")
    generator = opened.generator("float32")
    (drawn,) = generator.draw(["a coat"], [9], generator.with_settings(guidance=3.0, steps=3))
    x = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(9))[None]
    text = opened.prompts(["a coat"])
    silence = opened.model.unconditional(text)
    with torch.no_grad():
        for step in range(3):
            t = torch.tensor([step / 3])
            yes, no = opened.model(x, t, text), opened.model(x, t, silence)
            x = x + (no + 3.0 * (yes - no)) / 3
    expected = ((x + 1) * 127.5).round().clamp(0, 255)[0, 0]
    assert (drawn[..., 0].float() - expected).abs().max() <= 1


BAD = [
    ([], "this model is told texts: ask by a prompt"),
    (["-c", "coat"], "this model is told texts: ask by a prompt, such as 'a photo of a sneaker', not by class"),
    (["-c", "coat", "--prompt", "a coat"], "--class and --prompt: a model is told one of both"),
    (["--prompt", " "], "the prompt ' ' is empty"),
    (["--prompt", "long " * 40], "the model reads 24: shorten it"),
    (["--prompt", "a coat", "--reuse", "0.1"], "leave out reuse"),
    (["--prompt", "a coat", "--guide", str(CLIP)], "unknown model|holds a|expected one of"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), BAD, ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else ""
)
def test_bad_input(folder: Path, capsys: pytest.CaptureFixture, arguments: list[str], said: str) -> None:
    assert generate(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert any(part in err for part in said.split("|"))


def test_a_training_of_ours_draws(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its checkpoint, and from the bundle of it in another folder; samples on the way show the classes."""
    monkeypatch.chdir(ROOT)
    config = "--model.model.init_args.config"
    drawn = "{class_path: diffusion.tasks.samples.Samples, init_args: {rows: 1, settings: {steps: 2, guidance: 1.5}}}"
    options = {
        "-c": "configs/diffusion/mmdit_fashion_mnist.yaml", "--runs": str(folder), "--name": "told",
        "--trainer.max_epochs": "1", "--trainer.limit_train_batches": "1", "--trainer.limit_val_batches": "1",
        "--trainer.accelerator": "cpu", "--trainer.callbacks": f"[{drawn}]", "--trainer.precision": "32-true",
        f"{config}.head_dim": "16", f"{config}.depth": "2",
    }  # fmt: skip
    assert main(["fit", *itertools.chain(*options.items())]) == 0
    run = folder / "told" / "version_0"
    with Image.open(run / "samples" / "epoch=0.png") as page:
        assert page.size == (10 * 30 + 2, 30 + 2)
    asked = ["--prompt", "a sneaker", "-n", "1"]
    assert generate(*asked, "-o", str(folder / "first"), model=str(run / "last.ckpt")) == 0
    assert main(["export", str(run / "last.ckpt"), "-o", str(folder / "bundle")]) == 0
    monkeypatch.chdir(folder)
    assert generate(*asked, "-o", "second", model="bundle") == 0
    assert near("first/a_sneaker_0000.png", "second/a_sneaker_0000.png")
    first, second = (read_settings(Path(out) / "a_sneaker_0000.png") or {} for out in ("first", "second"))
    assert (first["steps"], first["guidance"]) == (2, 1.5)
    assert {**second, "model": first["model"]} == first
    with pytest.raises(InputError, match="clip_fashion_mnist"):  # the tokenizer isn't in a checkpoint
        open_generator(run / "last.ckpt")
