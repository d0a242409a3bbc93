"""Latents computed in advance train as those that are computed on the way; interrupted, other, damaged ones."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from core.train.cli import main as train
from core.weights import Bundle, save_bundle
from diffusion.latents import AutoEncoder
from diffusion.sample import as_bytes
from diffusion.tasks.cache import LatentSet, read_cache
from diffusion.tasks.fidelity import _decoded
from sensorium.cli import main
from vision.vit import ViT, ViTConfig


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random autoencoder, 24 pictures in two classes, and a DiT to train on them."""
    folder = tmp_path_factory.mktemp("latents")
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=3,
    )
    vae.save_pretrained(folder / "vae")
    random = np.random.default_rng(0)
    for number in range(24):
        path = folder / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    prepare = {"size": 16, "crop": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}
    shape = {"image": [8, 8], "channels": 3, "patch": 4, "dim": 16, "depth": 1, "heads": 2, "classes": 2}
    task = {
        "latents": {"class_path": "diffusion.latents.AutoEncoder", "init_args": {"path": str(folder / "vae")}},
        "process": {"class_path": "diffusion.process.Flow"},
        "model": {"class_path": "diffusion.dit.DiT", "init_args": {"config": shape}},
        "optim": {"lr": 0.01},
    }
    data = {
        "root": str(folder / "pictures"),
        "batch_size": 4,
        "hold_out": 0.25,
        "workers": 0,
        "preprocess": {"class_path": "vision.augment.Preprocess", "init_args": prepare},
    }
    content = {
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1, "enable_model_summary": False},
        "model": {"class_path": "diffusion.tasks.diffuse.Diffuse", "init_args": task},
        "data": {"class_path": "vision.tasks.data.ImageData", "init_args": data},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_they_train_as_latents_on_the_way(recipe: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    # as many at once as in training: a convolution sums in another order for other batches
    assert main(["precompute", "-c", str(recipe), "--out", str(cache), "--batch", "4"]) == 0
    kept = ["--data", "diffusion.tasks.data.LatentData", "--data.root", str(cache)]
    weights = []
    for name, options in (("images", []), ("latents", kept)):
        train(["fit", "-c", str(recipe), "--runs", str(tmp_path), "--name", name, *options])
        weights.append(torch.load(tmp_path / name / "version_0" / "last.ckpt", weights_only=True)["state_dict"])
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_what_is_missing_is_computed_and_nothing_else(recipe: Path, tmp_path: Path) -> None:
    command = [
        "precompute",
        "-c",
        str(recipe),
        "--out",
        str(tmp_path / "cache"),
        "--mirrored",
        "--precision",
        "float16",
    ]
    assert main(command) == 0
    said = read_cache(tmp_path / "cache")
    assert (said["splits"], said["classes"], said["views"]) == ({"train": 18, "val": 6}, ["a", "b"], 2)
    train_file, val_file = (tmp_path / "cache" / f"{split}-00000.safetensors" for split in ("train", "val"))
    whole = load_file(train_file)
    assert whole["moments"].shape == (18, 2, 6, 8, 8)
    assert whole["moments"].dtype == torch.float16
    train_file.unlink()
    stamp = val_file.stat().st_mtime_ns
    assert main(command) == 0
    assert all(torch.equal(tensor, whole[name]) for name, tensor in load_file(train_file).items())
    assert val_file.stat().st_mtime_ns == stamp


def test_errors(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = str(tmp_path / "cache")
    command = ["precompute", "-c", str(recipe), "--out", cache]
    assert main(command) == 0
    fit = ["fit", "-c", str(recipe), "--runs", str(tmp_path), "--data", "diffusion.tasks.data.LatentData"]
    capsys.readouterr()
    for given, expected in (
        ([*command, "--data.hold_out", "0.5"], "of another configuration (config, splits differ)"),
        ([*command[:-1], str(recipe.parent)], "has something else in it"),
        ([*command, "--data.nothing", "1"], "nothing"),
        ([*fit, "--data.root", cache, "--data.flip", "0.5"], "no mirrored pictures"),
        ([*fit, "--data.root", str(tmp_path)], "expected a folder that sensorium precompute wrote"),
        (
            [*fit, "--data.root", cache, "--model.latents", "diffusion.latents.Pixels"],
            "latents of another encoder than the task's",
        ),
    ):
        assert main(given) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert expected in error
    (tmp_path / "cache" / "train-00000.safetensors").unlink()
    assert main([*fit, "--data.root", cache]) == 2
    assert "1 of 1 files of train are missing" in capsys.readouterr().err


def test_samples_are_compared_with_what_is_decoded(recipe: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert main(["precompute", "-c", str(recipe), "--out", str(cache)]) == 0
    config = ViTConfig(image=(16, 16), patch=8, dim=16, depth=1, heads=2, classes=0)
    save_bundle(tmp_path / "judge", ViT(config), Bundle("vision.ViT", asdict(config)))
    judge = f"{{class_path: vision.tasks.judge.EncoderJudge, init_args: {{path: {tmp_path / 'judge'}}}}}"
    asked = f"judge: {judge}, samples: 5, real: 5, settings: {{steps: 2, batch: 2}}"
    fidelity = f"[{{class_path: diffusion.tasks.fidelity.Fidelity, init_args: {{{asked}}}}}]"
    kept = ["--data", "diffusion.tasks.data.LatentData", "--data.root", str(cache), "--trainer.callbacks", fidelity]
    train(["fit", "-c", str(recipe), "--runs", str(tmp_path), "--name", "run", "--trainer.max_epochs", "1", *kept])
    record = json.loads((tmp_path / "run" / "version_0" / "fidelity.json").read_text())
    assert record["protocol"]["reference"] == "decoded latents"
    assert (record["results"][0]["real"], record["results"][0]["samples"]) == (5, 5)
    latents = AutoEncoder(str(recipe.parent / "vae"))
    moments = load_file(cache / "val-00000.safetensors")["moments"][:, 0].float()
    expected = as_bytes(latents.decode(latents.expected(moments)))
    found = _decoded(LatentSet(cache, "val", read_cache(cache)), latents, 4, torch.device("cpu"))
    assert (torch.stack(found).int() - expected.int()).abs().max() <= 1  # a convolution of another batch
