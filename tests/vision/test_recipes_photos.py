"""All configurations of vision, made small, run a step by the command line on what they are for: a folder of photos."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sensorium.cli import main

CONFIGS = Path(__file__).parents[2] / "configs" / "vision"
PHOTOS = {
    "dino_vit_small": [],
    "dinov2_vit_small": [],
    "dinov2_vit_base": [("ibot_head.prototypes", 32), ("ibot_head.hidden", 16), ("ibot_head.bottleneck", 8)],
}
SMALL = {"dim": 16, "depth": 2, "heads": 2}
CLASSES = 3
QUICK = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.strategy", "auto"]
QUICK += ["--trainer.enable_model_summary", "false"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 JPEGs of different sizes in one folder."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(20):
        draw(folder / f"{number:02d}.jpg", number)
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 JPEGs of each class, in folders."""
    folder = tmp_path_factory.mktemp("classes")
    for number in range(4 * CLASSES):
        place = folder / "train" / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        draw(place / f"{number:02d}.jpg", number)
    return folder


def draw(path: Path, number: int) -> None:
    random = np.random.default_rng(number)
    low = random.integers(0, 255, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(low).resize((40 + number, 36), Image.Resampling.BILINEAR).save(path)


def options(task: str, **values: object) -> list[str]:
    return [text for name, value in values.items() for text in (f"--model.{task}{name}", str(value))]


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_without_labels(name: str, photos: Path, tmp_path: Path) -> None:
    """The command of the configuration's first line, and what makes it quick; to the end of an epoch, so measured."""
    changes = options("init_args.model.init_args.config.", **SMALL)
    changes += options("init_args.head.", prototypes=32, hidden=16, bottleneck=8)
    for place, value in PHOTOS[name]:
        changes += [f"--model.init_args.{place}", str(value)]
    changes += ["--data.init_args.augment.init_args.locals", "2", "--data.init_args.batch_size", "9"]
    files = ["-c", str(CONFIGS / f"{name}.yaml"), "--data.init_args.root", str(photos), "--runs", str(tmp_path)]
    main(["fit", *files, "--trainer.max_epochs", "1", "--data.init_args.hold_out", "0.1", *QUICK, *changes])
    folder = tmp_path / name / "version_0"
    assert (folder / "last.ckpt").exists()
    measured = json.loads((folder / "evaluate.json").read_text())
    assert "rank_me" in json.dumps(measured)


def run(name: str, root: Path | None, runs: Path, *more: str) -> Path:
    """Two steps of a configuration; the checkpoint."""
    where = [] if root is None else ["--data.init_args.root", str(root)]
    files = ["-c", str(CONFIGS / f"{name}.yaml"), *where, "--runs", str(runs)]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    main(["fit", *files, *short, "--test_after_fit", "false", *QUICK, "--data.init_args.batch_size", "4", *more])
    return runs / name / "version_0" / "last.ckpt"


def test_class_folders_of_photos(classes: Path, tmp_path: Path) -> None:
    """Those for ImageNet: pretraining, then all that begins with its encoder; then a teacher and its student."""
    held = ["--data.init_args.workers", "0", "--data.init_args.hold_out", "0.25", "--trainer.num_sanity_val_steps", "0"]
    config = "init_args.model.init_args.config."
    encoder = run(
        "mae_vit_base",
        classes,
        tmp_path,
        *held,
        *options(config, dim=16, depth=1, heads=2),
        *options(f"{config}encoder.", **SMALL),
    )
    begin = ["--model.init_args.initial.init_args.path", str(encoder)]
    labelled = [*held, *options("init_args.", classes=CLASSES)]
    own = options(config, classes=CLASSES, **SMALL)
    sincos = options(config, positions="sincos")
    for name in ("finetune_vit_base", "lora_vit_base"):
        assert run(name, classes, tmp_path, *labelled, *begin, *own, *sincos).exists()
    probe = [*options("init_args.", dim=16), *options(config, **SMALL), *sincos]
    assert run("probe_vit_base", classes, tmp_path, *labelled, *begin, *probe).exists()
    teacher = run("classify_deit_small", classes, tmp_path, *labelled, *own)
    of_teacher = "init_args.teacher.init_args."
    taught = [f"--model.{of_teacher}initial.init_args.path", str(teacher)]
    taught += options(f"{of_teacher}model.init_args.config.", classes=CLASSES, **SMALL)
    assert run("distill_deit_small", classes, tmp_path, *labelled, *own, *taught).exists()


@pytest.mark.parametrize("name", ["dino_vit_fashion_mnist", "dinov2_vit_fashion_mnist"])
def test_self_distillation_of_small_images(name: str, tmp_path: Path) -> None:
    """As they are, on the images in this repository; those of the other tasks run in ``test_mae_recipes.py``."""
    less = options("init_args.head.", prototypes=32) + options("init_args.model.init_args.config.", depth=1)
    assert run(name, None, tmp_path, *less, "--trainer.callbacks", "[]").exists()


def test_each_configuration_runs_somewhere() -> None:
    here = {*PHOTOS, "mae_vit_base", "finetune_vit_base", "lora_vit_base", "probe_vit_base", "classify_deit_small"}
    here |= {"distill_deit_small", "dino_vit_fashion_mnist", "dinov2_vit_fashion_mnist"}
    small = ("mae", "probe", "finetune", "finetune_few", "lora", "classify", "supervised", "distill")
    there = {f"{name}_vit_fashion_mnist" for name in small}
    assert here | there == {path.stem for path in CONFIGS.glob("*.yaml")}
    for path in CONFIGS.glob("*.yaml"):
        assert set(yaml.safe_load(path.read_text())) >= {"trainer", "model", "data"}
