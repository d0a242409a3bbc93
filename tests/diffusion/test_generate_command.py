"""``sensorium generate``: the same picture for the same seed, what is finished is kept, and errors of one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import GAUSSIAN, small_bundle

import sensorium
from sensorium import generating
from sensorium.cli import main
from sensorium.made_pictures import read_settings

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
trainer:
  callbacks:
    - class_path: diffusion.tasks.samples.Samples
      init_args: {settings: {steps: 3, guidance: 1.5}}
model:
  init_args:
    model: {init_args: {config: {dim: 32, depth: 1, heads: 2}}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the bundles `flow` and `gaussian`, of pictures of 8 x 8 in four classes."""
    monkeypatch.chdir(tmp_path)
    small_bundle(tmp_path / "flow")
    small_bundle(tmp_path / "gaussian", GAUSSIAN)
    return tmp_path


def generate(*arguments: str, model: str = "flow") -> int:
    return main(["generate", "-m", model, "-p", "float32", *arguments])


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def same(first: Path | str, second: Path | str) -> bool:
    """BLAS may sum in another order in a batch of another size."""
    return int(abs(pixels(first) - pixels(second)).max()) <= 1


def test_files_say_how_they_were_made(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate("-c", "ankle-boot", "-n", "3", "-s", "5", "-g", "1.5", "-o", "boots") == 0
    assert capsys.readouterr().out == "boots: 3 pictures, and sheet.png\n"
    names = ["ankle_boot_0005.png", "ankle_boot_0006.png", "ankle_boot_0007.png", "sheet.png"]
    assert sorted(path.name for path in Path("boots").iterdir()) == names
    said = read_settings(Path("boots/ankle_boot_0006.png"))
    assert said is not None
    weights = said.pop("weights")
    assert len(weights) == 16
    assert said == {
        "model": "flow",
        "precision": "float32",
        "reuse": 0.0,
        "class": "Ankle boot",
        "class_index": 2,
        "seed": 6,
        "solver": "euler",
        "steps": 6,
        "guidance": 1.5,
        "interval": [0.0, 1.0],
        "rescale": 0.0,
        "channels": None,
        "size": "8x8",
    }
    with Image.open("boots/ankle_boot_0006.png") as image:
        assert (image.mode, image.size) == ("L", (8, 8))
        assert image.info["Software"] == f"sensorium {sensorium.__version__}"
    with Image.open("boots/sheet.png") as sheet:
        assert sheet.width > 3 * 128


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        ("flow", "float32"),
        ("gaussian", "bfloat16"),
        ("flow", "auto"),
        pytest.param("flow", "bfloat16", marks=pytest.mark.thorough),
        pytest.param("gaussian", "float32", marks=pytest.mark.thorough),
        pytest.param("gaussian", "auto", marks=pytest.mark.thorough),
    ],
)
def test_the_same_seed_is_the_same_picture(folder: Path, model: str, precision: str) -> None:
    solver = ["--solver", "ddpm"] if model == "gaussian" else ["--solver", "sde"]
    solver += ["-p", precision]
    assert generate("-n", "9", "-o", "all", *solver, model=model) == 0
    assert generate("-n", "9", "-b", "2", "-o", "twos", *solver, model=model) == 0
    assert generate("-c", "1", "-n", "1", "-s", "5", "-o", "one", *solver, model=model) == 0
    made = sorted(Path("all").glob("*_0*.png"))
    assert len(made) == 9
    assert all(same(path, Path("twos") / path.name) for path in made)
    assert same("all/trouser_0005.png", "one/trouser_0005.png")
    assert not same("all/trouser_0005.png", "all/trouser_0001.png")


def test_an_interrupted_run_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert generate("-n", "6", "-o", "whole") == 0
    write, written = generating.write_picture, []

    def interrupted(path: Path, *rest) -> None:
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *rest)

    monkeypatch.setattr(generating, "write_picture", interrupted)
    assert generate("-n", "6", "-b", "3", "-o", "parts") == 130
    assert "4 of 6 pictures are in parts" in capsys.readouterr().err
    assert len(list(Path("parts").iterdir())) == 4
    first = {path: path.stat().st_mtime_ns for path in written}

    monkeypatch.setattr(generating, "write_picture", write)
    assert generate("-n", "6", "-b", "3", "-o", "parts") == 0
    assert capsys.readouterr().out == "parts: 6 pictures, 4 of them from before, and sheet.png\n"
    assert {path: path.stat().st_mtime_ns for path in written} == first
    assert all(same(path, Path("whole") / path.name) for path in Path("parts").glob("*_0*.png"))
    # what is complete is not drawn again, and needs no other file
    assert generate("-n", "6", "-o", "parts") == 0


def test_other_pictures_are_not_lost(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate("-c", "0", "-n", "1", "-o", "out") == 0
    before = pixels("out/t_shirt_top_0000.png")
    assert generate("-c", "0", "-n", "1", "-o", "out", "--steps", "3") == 2
    assert "made otherwise (steps 6, not 3): --overwrite" in capsys.readouterr().err
    assert (pixels("out/t_shirt_top_0000.png") == before).all()
    assert generate("-c", "0", "-n", "1", "-o", "out", "--steps", "3", "--overwrite") == 0
    assert (pixels("out/t_shirt_top_0000.png") != before).any()


def test_from_a_picture_and_into_it(folder: Path) -> None:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (8, 8), np.uint8)).save("start.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save("mask.png")
    assert generate("-c", "1", "-n", "2", "--init", "start.png", "--strength", "0.4", "-o", "near") == 0
    assert generate("-c", "1", "-n", "2", "--init", "start.png", "--strength", "1", "-o", "far") == 0
    assert generate("-c", "1", "-n", "2", "--init", "start.png", "--mask", "mask.png", "-o", "painted") == 0
    start = pixels("start.png")
    gaps = [abs(pixels(f"{out}/trouser_0000.png") - start).mean() for out in ("near", "far")]
    assert gaps[0] < gaps[1]
    painted = pixels("painted/trouser_0000.png")
    assert (painted[:, :4] == start[:, :4]).all()
    assert (painted[:, 4:] != start[:, 4:]).any()
    said = read_settings(Path("painted/trouser_0000.png")) or {}
    assert (said["strength"], len(said["init"]), len(said["mask"])) == (1.0, 16, 16)


def test_a_large_picture_is_cut_to_the_size(folder: Path) -> None:
    Image.new("RGB", (30, 16), (200, 10, 30)).save("wide.png")
    assert generate("-c", "1", "-n", "1", "--init", "wide.png", "--size", "12x8", "-o", "out") == 0
    with Image.open("out/trouser_0000.png") as image:
        assert image.size == (12, 8)


def test_the_preview_moves(folder: Path) -> None:
    assert generate("-c", "1", "-n", "2", "--steps", "40", "--preview", "-o", "out") == 0
    with Image.open("out/preview.webp") as film:
        assert 10 < film.n_frames <= 25
        assert film.size == (128, 128)  # two pictures side by side, above what the model sees in them
        film.seek(film.n_frames - 1)
        last = np.asarray(film.convert("L")).astype(int)
    made = np.asarray(Image.fromarray(pixels("out/trouser_0000.png").astype(np.uint8)).resize((64, 64), 0)).astype(int)
    assert abs(last[:64, :64] - made).mean() < 20  # WebP loses a little


def test_without_classes(folder: Path, capsys: pytest.CaptureFixture) -> None:
    small_bundle(folder / "plain", labels=(), classes=0)
    assert generate("-n", "2", "-o", "out", model="plain") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["sample_0000.png", "sample_0001.png", "sheet.png"]
    capsys.readouterr()
    assert generate("-c", "cat", model="plain") == 2
    assert "knows no classes" in capsys.readouterr().err


def test_precisions_agree(folder: Path) -> None:
    """As docs/diffusion.md says of the model in assets: the mean is off by a few steps of 255."""
    assert generate("-n", "4", "-o", "exact") == 0
    assert main(["generate", "-m", "flow", "-p", "bfloat16", "-n", "4", "-o", "half"]) == 0
    gaps = [abs(pixels(path) - pixels(Path("half") / path.name)).mean() for path in Path("exact").glob("*_0*.png")]
    assert len(gaps) == 4
    assert max(gaps) < 4


def test_an_exported_model_draws_the_same(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", "flow", "-o", "again"]) == 0
    assert "predictions differ by 0.0e+00" in capsys.readouterr().out
    assert generate("-n", "2", "-o", "first") == 0
    assert generate("-n", "2", "-o", "second", model="again") == 0
    assert all(same(path, Path("second") / path.name) for path in Path("first").glob("*_0*.png"))
    capsys.readouterr()
    assert main(["export", "flow", "-o", "model.onnx"]) == 2
    assert "a diffusion model can't be written as onnx" in capsys.readouterr().err


def test_a_training_of_ours_draws(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """From its checkpoint alone, with the settings of its own samples and the names of its classes."""
    fit = ["fit", "-c", str(ROOT / "configs/diffusion/sit_fashion_mnist.yaml"), "--name", "sit"]
    fit += ["--data.init_args.root", str(ROOT / "assets/fashion_mnist_subset"), "--trainer.max_steps", "1"]
    fit += ["--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"]
    (folder / "small.yaml").write_text(SMALL)
    assert main([*fit, "-c", "small.yaml"]) == 0
    assert main(["export", "runs/sit/version_0/last.ckpt", "-o", "bundle"]) == 0
    assert generate("-c", "sneaker", "-n", "1", "-o", "first", model="runs/sit/version_0/last.ckpt") == 0
    assert generate("-c", "sneaker", "-n", "1", "-o", "second", model="bundle") == 0
    assert same("first/sneaker_0000.png", "second/sneaker_0000.png")
    first, second = (read_settings(Path(out) / "sneaker_0000.png") or {} for out in ("first", "second"))
    assert (first["steps"], first["guidance"], first["class"]) == (3, 1.5, "Sneaker")
    assert {**second, "model": first["model"]} == first


BAD = [
    (["-c", "troser"], "no class 'troser': the nearest are 'Trouser'"),
    (["-c", "boot"], "the nearest are 'Ankle boot'"),
    (["-c", "4"], "no class 4: there are 4, 0 to 3"),
    (["--steps", "0"], "0 steps"),
    (["--steps", "5000"], "5000 steps"),
    (["-g", "-1"], "guidance -1.0"),
    (["-g", "nan"], "guidance nan"),
    (["-g", "1e9"], "guidance 1"),
    (["--guidance-interval", "0.9,0.1"], "guidance from 0.9 to 0.1"),
    (["--guidance-interval", "half"], "expected two numbers"),
    (["--rescale", "2"], "rescale 2.0"),
    (["--reuse", "1.5"], "reuse 1.5"),
    (["-n", "0"], "0 pictures"),
    (["-b", "0"], "batch 0"),
    (["-s", "-1"], "seed -1"),
    (["--solver", "ddim"], "no solver 'ddim' for this model, a flow"),
    (["--size", "9x8"], "9 x 8 pixels can't be cut into patches: expected multiples of 2"),
    (["--size", "large"], "WIDTHxHEIGHT"),
    (["--size", "90000x90000"], "are more than"),
    (["--mask", "other.png"], "give --init too"),
    (["--strength", "0.5"], "give --init too"),
    (["--init", "nothing.png"], "nothing.png: no such file"),
    (["--init", "flow/config.json"], "not a picture"),
    (["--init", "start.png", "--mask", "other.png"], "the image is 8 x 8 and its mask 10 x 8"),
    (["--init", "start.png", "--mask", "black.png"], "black everywhere"),
    (["--init", "start.png", "--strength", "0"], "strength 0.0"),
    (["--init", "start.png", "--strength", "0.01"], "less than one step"),
    (["-o", "flow/config.json"], "can't write into flow/config.json: "),
    (["-o", "flow/config.json/deeper"], "is a file"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input(folder: Path, capsys: pytest.CaptureFixture, arguments: list[str], said: str) -> None:
    Image.new("L", (8, 8), 128).save("start.png")
    Image.new("L", (10, 8), 255).save("other.png")
    Image.new("L", (8, 8), 0).save("black.png")
    before = sorted(folder.rglob("*"))
    assert generate(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert sorted(folder.rglob("*")) == before


def test_a_folder_that_may_not_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the tests may run as root, who may do anything
    assert generate("-o", "out") == 2
    assert "can't write into out: nothing may be written there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("dit", "unknown model 'dit'"),
        ("DiT-XL/2", "DiT-XL/2 is a size without weights"),
        ("./nowhere", "no file, folder or model"),
    ],
)
def test_no_such_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, model: str, said: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert generate(model=model) == 2
    assert said in capsys.readouterr().err
