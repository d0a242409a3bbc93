"""Classification: augmentation that follows from keys, mixing as timm does it, the loss, and that it learns."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from timm.data.mixup import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from core.data.order import keys
from core.errors import InputError
from core.train.cli import main
from vision.augment import Augment, Mix, Preprocess, Small
from vision.tasks.classify import Classify

ROOT = Path(__file__).parents[2]


def _pictures(count: int) -> list[Image.Image]:
    random_values = np.random.default_rng(0).integers(0, 256, (count, 50, 60, 3), dtype=np.uint8)
    return [Image.fromarray(values) for values in random_values]


def test_preprocessing_equals_timms():
    theirs = create_transform(32, crop_pct=0.9, interpolation="bicubic")
    pictures = _pictures(3)
    ours = Preprocess(32, crop=0.9)(pictures, np.zeros(3, np.uint64))
    torch.testing.assert_close(ours, torch.stack([theirs(picture) for picture in pictures]))


def test_an_augmented_picture_follows_from_its_key():
    augment, pictures, key = Augment(32), _pictures(6), keys(0, 1, np.arange(6))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    whole = augment(pictures, key)
    for number in range(6):
        alone = augment(pictures[number : number + 1], key[number : number + 1])
        assert torch.equal(alone[0], whole[number])
    assert not torch.equal(augment(pictures, keys(0, 2, np.arange(6))), whole)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_small_images_are_normalised_shifted_and_flipped():
    images = np.random.default_rng(0).integers(0, 256, (200, 6, 5), dtype=np.uint8)
    key = keys(0, 0, np.arange(200))
    plain = Small([0.5], [0.25])(images, key)
    expected = (torch.from_numpy(images).double() / 255 - 0.5) / 0.25
    torch.testing.assert_close(plain.double(), expected[:, None], rtol=1e-6, atol=1e-6)

    augment = Small([0.5], [0.25], shift=1, flip=0.5)
    moved = augment(images, key)
    assert torch.equal(augment(images[7:8], key[7:8])[0], moved[7])
    padded = F.pad(plain, (1, 1, 1, 1), value=-2.0)  # black
    seen = set()
    for image, big in zip(moved[:, 0], padded[:, 0], strict=True):
        found = [
            (row, column, flip)
            for row in range(3)
            for column in range(3)
            for flip in (False, True)
            if torch.equal(image.flip(1) if flip else image, big[row : row + 6, column : column + 5])
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 18
    colours = Small([0.5] * 3, [0.5] * 3)(np.stack([images] * 3, -1), key)
    assert colours.shape == (200, 3, 6, 5)
    with pytest.raises(InputError, match="3 channel"):
        Small([0.5], [0.5])(np.stack([images] * 3, -1), key)
    with pytest.raises(InputError, match="arrays of one size"):
        Small([0.5], [0.5])(_pictures(1), key[:1])


@pytest.mark.parametrize(
    "settings", [{"mixup": 0.4, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}, {"probability": 0.5}]
)
def test_mixing_equals_timms_on_neighbours(settings: dict[str, float]):
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    order = [0, 2, 4, 5, 3, 1]  # from both ends: 0 with 1, 2 with 3, 4 with 5
    for batch in range(5):
        mixed, targets = Mix(**settings)(images, labels, 5, (7, 3, batch))
        np.random.seed(int(keys(7, 3, np.array([batch]))[0]) % 2**32)
        timm_settings = {"mixup_alpha": settings.get("mixup", 0.8), "cutmix_alpha": settings.get("cutmix", 1.0)}
        timm = Mixup(**timm_settings, prob=settings.get("probability", 1.0), label_smoothing=0.0, num_classes=5)
        their_images, their_targets = timm(images[order], labels[order])
        assert torch.equal(mixed[order], their_images)
        assert torch.equal(targets[order], their_targets)


def test_mixing_is_the_same_however_the_batch_is_shared():
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    before = np.random.get_state()[1].tolist()
    whole = Mix()(images, labels, 4, (0, 0, 1))
    halves = [Mix()(images[part], labels[part], 4, (0, 0, 1)) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat([half[0] for half in halves]), whole[0])
    assert torch.equal(torch.cat([half[1] for half in halves]), whole[1])
    assert np.random.get_state()[1].tolist() == before
    with pytest.raises(InputError, match="has 3 of each batch"):
        Mix()(images[:3], labels[:3], 4, (0, 0, 1))
    with pytest.raises(InputError, match="both off"):
        Mix(0, 0)


class _Fixed(nn.Module):
    """A model whose logits are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits[: len(images)]


def test_losses_equal_timms(monkeypatch: pytest.MonkeyPatch):
    logits, labels, images = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0]), torch.randn(6, 1, 4, 4)
    batch = {"image": images, "label": labels}
    monkeypatch.setattr(Classify, "log", lambda *_, **__: None)
    monkeypatch.setattr(Classify, "current_epoch", 2)
    smooth = Classify(_Fixed(logits), 5, smoothing=0.1).training_step(batch, 0)
    torch.testing.assert_close(smooth, LabelSmoothingCrossEntropy(0.1)(logits, labels))
    mix = Mix(0.4, 0.0)
    mixed = Classify(_Fixed(logits), 5, mix=mix).training_step(batch, 3)
    _, targets = mix(images, labels, 5, (0, 2, 3))
    torch.testing.assert_close(mixed, SoftTargetCrossEntropy()(logits, targets))
    with pytest.raises(InputError, match="expected \\(batch, 7\\)"):
        Classify(_Fixed(logits), 7).training_step(batch, 0)


def test_learns_fashion_in_a_minute(tmp_path: Path):
    """The configuration of the full data set, on the part of it that is in the repository."""
    config = ROOT / "configs" / "vision" / "classify_vit_fashion_mnist.yaml"
    options = {"--data.root": ROOT / "assets" / "fashion_mnist_subset", "--runs": tmp_path, "--trainer.max_epochs": 6}
    main(["fit", "-c", str(config), *(str(word) for pair in options.items() for word in pair)])
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    accuracy = [float(row["test/accuracy"]) for row in rows if row.get("test/accuracy")]
    assert len(accuracy) == 1
    assert accuracy[0] >= 0.75


def test_a_folder_of_pictures_from_training_to_predictions(tmp_path: Path):
    """Pictures of two colours, with the full augmentation and reading processes."""
    random.seed(0)
    for split, count in (("train", 16), ("test", 4)):
        for name, colour in (("blue", (20, 20, 230)), ("red", (230, 20, 20))):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                size = (random.randint(30, 60), random.randint(30, 60))
                Image.new("RGB", size, colour).save(folder / f"{number}.png")
    shape = ["image=[32,32]", "patch=16", "dim=32", "depth=1", "heads=2", "classes=2"]
    vit = [f"--model.model.config.{item}" for item in shape]
    arguments = [
        "--runs", str(tmp_path / "runs"), "--name", "colours",
        "--trainer.max_epochs", "6", "--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false",
        "--model", "vision.tasks.classify.Classify", "--model.classes", "2",
        "--model.optim.lr", "0.003",
        "--model.model", "vision.vit.ViT", *vit,
        "--data", "vision.tasks.data.ImageData", "--data.root", str(tmp_path / "data"),
        "--data.format", "core.data.images.ImageFolder", "--data.batch_size", "8", "--data.hold_out", "0.2",
        "--data.workers", "1",
        "--data.preprocess", "vision.augment.Preprocess", "--data.preprocess.size", "32",
        "--data.augment", "vision.augment.Augment", "--data.augment.size", "32", "--data.augment.policy", "",
    ]  # fmt: skip
    empty = tmp_path / "empty.yaml"
    empty.write_text("seed_everything: 3\n")
    main(["fit", "-c", str(empty), *arguments])
    best = tmp_path / "runs" / "colours" / "version_0" / "best.ckpt"
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("L", (40, 40), 20).save(photos / "gray.png")
    Image.new("RGB", (40, 80), (220, 30, 30)).save(photos / "reddish.jpg")
    main(["predict", "--ckpt_path", str(best), "--data.root", str(photos), "--name", "photos"])
    with next((tmp_path / "runs" / "photos").rglob("predictions.csv")).open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert rows["reddish.jpg"]["class"] == "red"
    assert set(rows) == {"gray.png", "reddish.jpg"}

    (photos / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png: not a picture"):
        main(["predict", "--ckpt_path", str(best), "--data.root", str(photos), "--name", "broken"])
    assert not list((tmp_path / "runs").rglob("broken/**/*.csv"))
