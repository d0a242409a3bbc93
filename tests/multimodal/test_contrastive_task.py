"""Contrastive training: its loss against open_clip's, GradCache, locked towers, learning rates, and a recipe's run."""

import csv
import json
from pathlib import Path

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss

from core.errors import InputError
from core.train.adapt import Lock
from core.train.optim import param_groups
from core.train.rebuild import rebuild
from multimodal.tasks.contrastive import Contrastive
from multimodal.text import TextConfig
from multimodal.tokenizer import ClipTokenizer
from multimodal.two_towers import TwoTowers, TwoTowersConfig
from multimodal.zero_shot import ZeroShotClassifier
from sensorium.cli import main
from vision.vit import ViTConfig

ROOT = Path(__file__).parents[2]
IMAGE = ViTConfig(image=(16, 16), patch=8, dim=16, depth=2, heads=2, classes=0)
TEXT = TextConfig(vocab=40, context=6, dim=16, depth=1, heads=2, embed=12)


def towers(bias: float | None = None) -> TwoTowers:
    torch.manual_seed(0)
    return TwoTowers(TwoTowersConfig(IMAGE, TEXT, logit_bias=bias)).double()


def pairs() -> dict[str, torch.Tensor]:
    make = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(10, 3, 16, 16, generator=make, dtype=torch.float64),
        "text": torch.randint(0, 40, (10, 6), generator=make),
    }


@pytest.mark.parametrize("bias", [None, -10.0])
@pytest.mark.parametrize("cache", [None, 4])
def test_the_loss_is_open_clips(bias: float | None, cache: int | None) -> None:
    task, batch = Contrastive(towers(bias), cache=cache), pairs()
    task.log = lambda *args, **settings: None  # type: ignore[method-assign, assignment]
    loss = task.training_step(batch, 0)
    loss.backward()
    model = towers(bias)
    pair = model(batch["image"], batch["text"])
    expected = (
        ClipLoss()(pair.image, pair.text, pair.scale)
        if bias is None
        else SigLipLoss()(pair.image, pair.text, pair.scale, pair.bias)
    )
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    found = dict(task.model.named_parameters())
    for name, parameter in model.named_parameters():
        assert found[name].grad is not None, name
        torch.testing.assert_close(found[name].grad, parameter.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_a_locked_tower_stays() -> None:
    task = Contrastive(towers(), adapt=Lock(["image"]))
    task.configure_model()
    trained = {name.partition(".")[0] for name, p in task.model.named_parameters() if p.requires_grad}
    assert trained == {"image_proj", "text", "logit_scale"}
    with pytest.raises(InputError, match="no such part"):
        Lock(["eye"])(towers())


def test_towers_may_learn_at_their_own_pace() -> None:
    rates = {
        group["name"]: group["lr"] for group in param_groups(Contrastive(towers()), 1.0, 0.1, parts={"image": 0.1})
    }
    assert rates == {"image.decay": 0.1, "image.no_decay": 0.1, "decay": 1.0, "no_decay": 1.0}


def test_the_recipe_runs(tmp_path: Path, few_fashion: Path) -> None:
    config = ROOT / "configs" / "multimodal" / "clip_fashion_mnist.yaml"
    short = [
        "--trainer.max_epochs",
        "1",
        "--trainer.log_every_n_steps",
        "1",
        "--trainer.limit_train_batches",
        "2",
        "--trainer.accelerator",
        "cpu",
    ]
    probe = ["--trainer.callbacks+=vision.tasks.evaluate.Evaluate", "--trainer.callbacks.train=500"]
    data = ["--data.root", str(few_fashion), "--data.batch_size", "32"]
    main(["fit", "-c", str(config), *short, *probe, *data, "--runs", str(tmp_path)])
    folder = tmp_path / "clip_fashion_mnist" / "version_0"
    with (folder / "metrics.csv").open() as file:
        names = set(next(csv.reader(file)))
    assert {"test/zero_shot", "test/text_to_image_R@10", "val/loss", "train/loss", "test/probe"} <= names
    assert json.loads((folder / "evaluate_pairs.json").read_text())["protocol"]["names"][0] == "t-shirt"
    assert json.loads((folder / "evaluate.json").read_text())["results"][-1]["split"] == "test"
    main(["validate", "--ckpt_path", str(folder / "last.ckpt"), "--runs", str(tmp_path), "--name", "again"])
    for name in ("val/zero_shot", "val/probe"):
        assert _last(tmp_path / "again", name) == pytest.approx(_last(folder, name), abs=1e-3)
    task = rebuild(folder / "last.ckpt")
    assert isinstance(task.model, TwoTowers)
    tokenizer = ClipTokenizer.from_file(ROOT / "assets" / "fashion_mnist_captions" / "merges.txt", 24)
    found = ZeroShotClassifier(task.model, tokenizer, ["bag", "shirt"], precision="float32")(torch.randn(2, 1, 28, 28))
    assert found.shape == (2, 2)


def _last(run: Path, column: str) -> float:
    """The last value in a column of a run's table."""
    with next(run.rglob("metrics.csv")).open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)][-1]
