"""The callback that evaluates features, within real runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.data.idx import Idx, read_idx
from core.data.sets import few, hold_out
from core.train.cli import main
from core.train.knn import knn
from vision.vit import ViT, ViTConfig


def evaluator(**settings: Any) -> dict[str, Any]:
    """The callback, of a size that the tiny data has."""
    return {"class_path": "vision.tasks.evaluate.Evaluate", "init_args": {"train": 40, "val": 12, "k": 5, **settings}}


def fit(config: Path, *options: str, command: str = "fit") -> Path:
    """Run one command and return the run's folder."""
    runs = config.parent / "runs"
    before = set(runs.rglob("version_*"))
    main([command, *(["-c", str(config)] if command == "fit" else []), *options])
    (folder,) = set(runs.rglob("version_*")) - before
    return folder


def told(folder: Path) -> dict[str, Any]:
    """What the callback wrote."""
    content = json.loads((folder / "evaluate.json").read_text())
    assert isinstance(content, dict)
    return content


def by_hand(config: Path, checkpoint: dict[str, Any]) -> dict[str, float]:
    """What 5 neighbours and scikit-learn's logistic regression make of the averaged weights."""
    content = yaml.safe_load(config.read_text())
    vit = ViT(ViTConfig(**content["model"]["init_args"]["model"]["init_args"]["config"])).eval()
    average = {name: weight for name, weight in checkpoint["state_dict"].items() if name.startswith("ema.")}
    vit.load_state_dict({name.removeprefix("ema."): weight for name, weight in average.items()})
    folder = Path(content["data"]["init_args"]["root"])
    images = (read_idx(folder / "train-images-idx3-ubyte") / np.float32(255) - np.float32(0.3)) / np.float32(0.3)
    labels = read_idx(folder / "train-labels-idx1-ubyte").astype(np.int64)
    whole = Idx(classes=["nw", "ne", "sw", "se"]).open(folder, "train")
    assert whole is not None
    parts = [few(part, count) for part, count in zip(hold_out(whole, 0.2), (40, 12), strict=True)]
    with torch.no_grad():
        features = vit.pool(vit.features(torch.from_numpy(images)[:, None]).x)
    rows = [[int(part.name(index)) for index in range(len(part))] for part in parts]
    (x, y), (known, truth) = (features[row] for row in rows), (torch.from_numpy(labels[row]) for row in rows)
    votes = knn(x, known, y, 4, k=5)
    scaler = StandardScaler().fit(x)
    peer = LogisticRegression(C=1 / (1e-3 * 40), max_iter=2000).fit(scaler.transform(x), known)
    found = {"knn": votes.argmax(1), "probe": torch.from_numpy(peer.predict(scaler.transform(y)))}
    return {name: float((guess == truth).float().mean()) for name, guess in found.items()}


def test_a_run_with_it_is_the_run_without_and_validate_says_the_same(config: Callable[..., Path]):
    path = config(callbacks=[evaluator(every=2)])
    folder = fit(path)
    content = yaml.safe_load(path.read_text())
    content["trainer"].pop("callbacks")
    plain = path.with_name("plain.yaml")
    plain.write_text(yaml.safe_dump(content))
    one, other = (torch.load(run / "last.ckpt", weights_only=True) for run in (folder, fit(plain)))
    for name, weight in other["state_dict"].items():
        assert torch.equal(one["state_dict"][name], weight), name
    assert str(one["resume"]) == str(other["resume"])

    results = told(folder)["results"]
    assert [result["epoch"] for result in results] == [1, 2]  # every second, and the last
    assert {name: results[-1][name] for name in ("knn", "probe")} == by_hand(path, one)
    protocol = told(folder)["protocol"]
    assert protocol["knn"] == {"k": 5, "similarity": "cosine", "temperature": 0.07}
    assert protocol["images"] == {"train": 40, "val": 12}
    assert protocol["transform"]["class"] == "vision.augment.Small"

    again = told(fit(path, "--ckpt_path", str(folder / "last.ckpt"), command="validate"))
    assert again["protocol"] == protocol
    # the average of the last step, which the validation at the end of the training saw too
    (result,) = again["results"]
    assert result["checkpoint"] == str(folder / "last.ckpt")
    for name in results[-1].keys() - {"epoch", "step", "split"}:
        assert result[name] == pytest.approx(results[-1][name], rel=1e-5), name
    # a run that goes on has all results
    resumed = told(fit(path, "--ckpt_path", str(folder / "last.ckpt"), "--trainer.max_epochs", "4"))
    assert resumed["results"][:2] == results
    assert [result["epoch"] for result in resumed["results"]] == [1, 2, 3]


def test_pictures_of_a_classifier_and_of_a_masked_autoencoder(config: Callable[..., Path]):
    drawn = {"class_path": "vision.tasks.pictures.Pictures", "init_args": {"images": 2, "side": 20}}
    path = config(callbacks=[drawn], max_epochs=1)
    folder = fit(path)
    assert Image.open(folder / "pictures" / "epoch=0.png").size == (4 * 24 + 4, 16 + 2 * 24 + 4)
    content = yaml.safe_load(path.read_text())
    shape = {"image": [8, 8], "patch": 4, "channels": 1, "dim": 16, "depth": 2, "heads": 2}
    encoder = {**shape, "classes": 0, "positions": "sincos"}
    model = {"encoder": encoder, "dim": 16, "depth": 1, "heads": 2, "mask": 0.5}
    content["model"] = {
        "class_path": "vision.tasks.mae.MAE",
        "init_args": {"model": {"class_path": "vision.mae.MaskedAutoencoder", "init_args": {"config": model}}},
    }
    content["trainer"]["callbacks"].append(evaluator())
    masked = path.with_name("masked.yaml")
    masked.write_text(yaml.safe_dump(content))
    main(["fit", "-c", str(masked)])
    folder = masked.parent / "runs" / "masked" / "version_0"
    assert Image.open(folder / "pictures" / "epoch=0.png").size == (6 * 24 + 4, 16 + 2 * 24 + 4)
    assert told(folder)["results"][0].keys() >= {"knn", "probe", "rank_me"}
    # TensorBoard has the picture too
    events = EventAccumulator(str(folder)).Reload()
    assert events.Tags()["images"] == ["pictures"]


def test_where_there_is_no_validation_the_epoch_ends_with_it(config: Callable[..., Path]):
    path = config(callbacks=[evaluator()], max_epochs=1, limit_val_batches=0)
    (result,) = told(fit(path, "--trainer.enable_checkpointing", "false"))["results"]
    assert result["epoch"] == 0
    assert result["knn"] >= 0
