"""Samples and their figures while a model learns: repeatable, logged, and without touching the training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from core.errors import InputError
from core.train.cli import main
from core.train.judge import Judge, Judgement
from core.weights import Bundle, save_bundle
from diffusion.metrics import frechet_distance
from diffusion.tasks.fidelity import figures
from vision.tasks.judge import EncoderJudge
from vision.vit import ViT, ViTConfig

CONFIG = Path(__file__).parents[2] / "configs" / "diffusion" / "sit_fashion_mnist.yaml"
CLIP = Path(__file__).parents[2] / "assets" / "clip_fashion_mnist"
NAMES = "[t-shirt, pair of trousers, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot]"


class Brightness(Judge):
    """The mean of a picture's upper and lower half; the class is whether the lower one is brighter."""

    def __call__(self, pictures: Sequence[Tensor]) -> Judgement:
        x = torch.stack(list(pictures)).float() / 255
        halves = torch.stack([part.flatten(1).mean(1) for part in x.chunk(2, 1)], 1)
        return Judgement(halves, torch.stack([halves[:, 0] - halves[:, 1], halves[:, 1] - halves[:, 0]], 1))

    def protocol(self) -> dict[str, Any]:
        return {"judge": "brightness"}


def test_figures_are_of_the_judges_features() -> None:
    random = torch.Generator().manual_seed(0)
    real, made = (list(torch.randint(0, 256, (20, 4, 4, 1), generator=random, dtype=torch.uint8)) for _ in range(2))
    judge = Brightness()
    classes = judge(made).logits.argmax(1).tolist()  # type: ignore[union-attr]
    found = figures(judge, real, made, [1 - classes[0], *classes[1:]])
    assert found["recognised"] == pytest.approx(0.95)
    assert found["fid"] == frechet_distance(judge(real).features, judge(made).features)
    assert figures(judge, real, real, None)["fid"] == pytest.approx(0, abs=1e-9)
    assert "recognised" not in figures(judge, real, real, None)
    # two classes whose pictures don't look alike: samples are nearer to their own
    truth = np.array(judge(real).logits.argmax(1))  # type: ignore[union-attr]
    apart = figures(judge, real, made, classes, truth)
    assert apart["class_kid"] < apart["other_class_kid"]


def test_an_encoder_of_the_suite_judges(tmp_path: Path) -> None:
    shape = {"image": [8, 8], "patch": 4, "channels": 1, "dim": 16, "depth": 1, "heads": 2, "classes": 3}
    torch.manual_seed(0)
    model = ViT(ViTConfig(**{**shape, "image": (8, 8)})).eval()  # type: ignore[arg-type]
    prepare = {"class_path": "vision.augment.Small", "init_args": {"mean": [0.2], "std": [0.4]}}
    save_bundle(tmp_path / "vit", model, Bundle("vision.ViT", shape, preprocessing=prepare))
    pictures = torch.randint(0, 256, (5, 8, 8, 1), dtype=torch.uint8)
    judge = EncoderJudge(str(tmp_path / "vit"), batch=2)
    images = ((pictures.float() / 255 - 0.2) / 0.4).permute(0, 3, 1, 2)
    with torch.no_grad():
        features, logits = judge(list(pictures))
        torch.testing.assert_close(features, model.pool(model.features(images).x))
        torch.testing.assert_close(logits, model(images))
    assert len(judge.protocol()["weights"]) == 64


def test_a_run_with_samples_is_the_run_without(tmp_path: Path) -> None:
    settings = "{steps: 2, guidance: 2.0, batch: 40}"
    judge = f"{{class_path: multimodal.tasks.judge.TowersJudge, init_args: {{path: {CLIP}, names: {NAMES}}}}}"
    watching = (
        f"[{{class_path: diffusion.tasks.samples.Samples, init_args: {{rows: 2, settings: {settings}}}}},"
        f"{{class_path: diffusion.tasks.fidelity.Fidelity, init_args: {{judge: {judge}, samples: 40, real: 100, "
        f"settings: {settings}}}}}]"
    )
    config = "--model.model.init_args.config"
    weights = []
    for name, callbacks in (("with", watching), ("without", "[]")):
        main(
            [
                "fit", "-c", str(CONFIG), "--runs", str(tmp_path), "--name", name, "--data.batch_size", "16",
                "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1",
                "--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.callbacks", callbacks,
                f"{config}.dim", "32", f"{config}.depth", "1", f"{config}.heads", "2",
            ]
        )  # fmt: skip
        weights.append(torch.load(tmp_path / name / "version_0" / "last.ckpt", weights_only=True)["state_dict"])
    run = tmp_path / "with" / "version_0"
    assert all(torch.equal(weights[0][key], tensor) for key, tensor in weights[1].items() if "means" not in key)
    page = np.asarray(Image.open(run / "samples" / "epoch=1.png"))
    assert page.shape == (2 * 30 + 2, 10 * 30 + 2, 3)
    record = json.loads((run / "fidelity.json").read_text())
    assert [result["epoch"] for result in record["results"]] == [0, 1]
    assert {"fid", "kid", "precision", "recall", "recognised", "class_kid"} <= record["results"][1].keys()
    assert record["protocol"]["sampling"]["steps"] == 2
    assert "val/recognised" in (run / "metrics.csv").read_text()


def test_a_judge_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing"):
        EncoderJudge(str(tmp_path / "nothing"))
