"""MAE's training: it learns, resumes bit for bit, validates with fixed masks, and its encoder goes on elsewhere."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from core.data.order import keys, uniforms
from core.errors import InputError
from core.train.cli import main
from core.train.rebuild import rebuild
from core.weights import Bundle, save_bundle
from vision.losses.mae import mae_loss
from vision.mae import MAEConfig, MaskedAutoencoder
from vision.mae_weights import facebook
from vision.tasks.initial import Pretrained, encoder_of, save_encoder, transfer
from vision.tasks.mae import MAE
from vision.vit import ViT, ViTConfig
from vision.weights import load_vit

ENCODER = {
    "image": [8, 8], "patch": 2, "channels": 1, "dim": 16, "depth": 2, "heads": 2, "classes": 0, "positions": "sincos",
}  # fmt: skip
SHAPE = ViTConfig(**{**ENCODER, "image": (8, 8)})  # type: ignore[arg-type]


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration over 80 + 20 images of 8 x 8 in which one quarter is bright."""
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", 100), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 4
        images = random.integers(0, 60, (count, 8, 8), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[row : row + 4, column : column + 4] += 160
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            size = b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(bytes([0, 0, 8, array.ndim]) + size + array.tobytes())

    def write(name: str, task: str, arguments: dict[str, Any], **trainer: Any) -> Path:
        small = {"class_path": "vision.augment.Small", "init_args": {"mean": [0.3], "std": [0.3]}}
        data = {
            "root": str(folder),
            "format": {"class_path": "core.data.idx.Idx", "init_args": {"classes": ["nw", "ne", "sw", "se"]}},
            "preprocess": small,
            "batch_size": 16,
            "hold_out": 0.2,
        }
        base = {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, "enable_model_summary": False}
        content = {
            "runs": str(tmp_path / "runs"),
            "trainer": {**base, "max_epochs": 2, **trainer},
            "model": {"class_path": task, "init_args": arguments},
            "data": {"class_path": "vision.tasks.data.ImageData", "init_args": data},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def autoencoder(**changes: Any) -> dict[str, Any]:
    """A task's arguments."""
    config = {"encoder": ENCODER, "dim": 8, "depth": 1, "heads": 2, "mask": 0.5, **changes}
    model = {"class_path": "vision.mae.MaskedAutoencoder", "init_args": {"config": config}}
    return {"model": model, "optim": {"lr": 0.01}, "ema": 0.9}


def fit(path: Path, *options: str) -> Path:
    """Train, and return the run's folder."""
    runs = path.parent / "runs" / path.stem
    before = set(runs.glob("*"))
    main(["fit", "-c", str(path), *options])
    (folder,) = set(runs.glob("*")) - before
    return folder


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def column(folder: Path, name: str) -> list[float]:
    lines = (folder / "metrics.csv").read_text().splitlines()
    at = lines[0].split(",").index(name)
    return [float(cells[at]) for cells in (line.split(",") for line in lines[1:]) if cells[at]]


def test_it_learns_and_resumes_bit_for_bit(recipe: Callable[..., Path]) -> None:
    callback = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"filename": "at-{step}", "every_n_train_steps": 7, "save_top_k": -1},
    }
    path = recipe("mae", "vision.tasks.mae.MAE", autoencoder(), max_epochs=6, callbacks=[callback])
    folder = fit(path)
    losses = column(folder, "val/loss")
    assert losses[-1] < 0.95 * losses[0]
    end = load(folder / "last.ckpt")
    resumed = fit(path, "--ckpt_path", str(next(folder.rglob("at-step=14*.ckpt"))))
    again = load(resumed / "last.ckpt")
    assert end["global_step"] == again["global_step"] == 30
    assert same(end["state_dict"], again["state_dict"])
    assert column(resumed, "train/loss") == column(folder, "train/loss")[14:]


def test_the_masks_of_validation_follow_the_images_numbers() -> None:
    model = MaskedAutoencoder(MAEConfig(SHAPE, dim=8, depth=1, heads=2))
    task = MAE(model)
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    images, index = torch.randn(6, 1, 8, 8), torch.tensor([4, 9, 2, 30, 7, 1])
    state = torch.get_rng_state()
    for part in (slice(0, 4), slice(4, 6)):
        task.validation_step({"image": images[part], "index": index[part]}, 0)
    assert torch.equal(torch.get_rng_state(), state)
    found = model(images, torch.from_numpy(uniforms(keys(0, 0, index.numpy()), 16)))
    expected = mae_loss(found.predicted, images, found.masked, 2)
    assert task.mean.compute().item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_checkpoint_gives_its_encoder_and_goes_into_fine_tuning(recipe: Callable[..., Path], tmp_path: Path) -> None:
    folder = fit(recipe("mae", "vision.tasks.mae.MAE", autoencoder()))
    checkpoint = folder / "last.ckpt"
    weights = load(checkpoint)["state_dict"]
    encoder = encoder_of(checkpoint)
    assert not encoder.training
    # the average, not the weights in training
    assert torch.equal(encoder.norm.weight, weights["ema.encoder.norm.weight"])
    assert not torch.equal(encoder.norm.weight, weights["model.encoder.norm.weight"])

    save_encoder(checkpoint, tmp_path / "bundle")
    bundled, info = load_vit(tmp_path / "bundle")
    assert same(dict(bundled.state_dict()), dict(encoder.state_dict()))
    assert info.preprocessing["init_args"] == {"mean": [0.3], "std": [0.3], "shift": 0, "flip": 0.0}

    shape = {**ENCODER, "classes": 4, "positions": "all", "pool": "mean"}
    arguments = {
        "model": {"class_path": "vision.vit.ViT", "init_args": {"config": shape}},
        "classes": 4,
        "initial": {"class_path": "vision.tasks.initial.Pretrained", "init_args": {"path": str(checkpoint)}},
        "optim": {"lr": 0.0, "weight_decay": 0.0},
    }
    path = recipe("tune", "vision.tasks.classify.Classify", arguments, max_epochs=1)
    tuned = fit(path) / "last.ckpt"
    found = load(tuned)["state_dict"]
    assert torch.equal(found["model.blocks.1.mlp.fn.fc2.weight"], weights["ema.encoder.blocks.1.mlp.fn.fc2.weight"])
    assert torch.equal(found["model.positions.table"], weights["model.encoder.positions.table"])

    # what it began with may be gone once there is a checkpoint
    checkpoint.unlink()
    (folder / "best.ckpt").unlink()
    main(["validate", "--ckpt_path", str(tuned)])
    fit(path, "--ckpt_path", str(tuned), "--trainer.max_epochs", "2")
    with pytest.raises(InputError, match="no such checkpoint"):
        fit(path)


def test_training_goes_on_from_released_weights(tmp_path: Path) -> None:
    config = MAEConfig(SHAPE, dim=8, depth=1, heads=2)
    source, target = MaskedAutoencoder(config), MaskedAutoencoder(config)
    torch.save({"model": facebook(config).export(source.state_dict())}, tmp_path / "mae.pth")
    Pretrained(str(tmp_path / "mae.pth"))(target)
    assert same(dict(source.state_dict()), dict(target.state_dict()))
    target = MaskedAutoencoder(config)
    save_bundle(tmp_path / "mae", source, Bundle("vision.MaskedAutoencoder", asdict(config)))
    Pretrained(str(tmp_path / "mae"))(target)
    assert same(dict(source.state_dict()), dict(target.state_dict()))
    assert same(dict(encoder_of(tmp_path / "mae").state_dict()), dict(source.encoder.state_dict()))
    with pytest.raises(InputError, match="another shape"):
        Pretrained(str(tmp_path / "mae"))(MaskedAutoencoder(MAEConfig(SHAPE, dim=12, depth=1, heads=2)))
    with pytest.raises(InputError, match="fill a Linear"):
        Pretrained(str(tmp_path / "mae"))(torch.nn.Linear(2, 2))


def test_published_encoders_go_into_a_classifier(tmp_path: Path) -> None:
    """Facebook's file of an encoder alone, and a folder of timm, whose head is another's."""
    source = MaskedAutoencoder(MAEConfig(SHAPE, dim=8, depth=1, heads=2))
    state = facebook(source.config).export(source.state_dict())
    alone = {n: w for n, w in state.items() if not n.startswith(("decoder", "mask_token"))}
    torch.save({"model": alone}, tmp_path / "mae_pretrain.pth")
    shape = {**ENCODER, "image": (8, 8), "classes": 3, "positions": "all", "pool": "mean", "drop_path": 0.1}
    target = ViT(ViTConfig(**shape))  # type: ignore[arg-type]
    Pretrained(str(tmp_path / "mae_pretrain.pth"))(target)
    assert torch.equal(target.blocks[1].mlp.fn.fc1.weight, source.encoder.blocks[1].mlp.fn.fc1.weight)
    assert torch.equal(target.positions.table, source.encoder.positions.table)
    with pytest.raises(InputError, match=r"has nothing for head, pool\.norm"):
        Pretrained(str(tmp_path / "mae_pretrain.pth"), whole=True)(target)

    folder = tmp_path / "timm"
    folder.mkdir()
    peer = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    save_file(peer.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "num_classes": 7}')
    model = ViT(ViTConfig(image=(64, 96), dim=192, heads=3, classes=2))
    before = model.head.weight.clone()
    Pretrained(str(folder))(model)
    assert torch.equal(model.head.weight, before)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        peer.set_input_size((64, 96))
        expected = peer.eval().forward_features(images)
        torch.testing.assert_close(model.eval().features(images).x, expected, rtol=1e-4, atol=1e-4)


def test_an_encoder_goes_into_a_larger_picture() -> None:
    source = ViT(SHAPE)
    target = ViT(ViTConfig(**{**ENCODER, "image": (12, 16), "classes": 3, "positions": "all"}))  # type: ignore[arg-type]
    assert transfer(source, target) == ["head"]
    assert target.positions.table.shape == (1 + 48, 16)
    assert torch.equal(target.positions.table[0], source.positions.table[0])
    images = torch.randn(2, 1, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(target.features(images).x, source.features(images).x)
    for changes, message in (({"dim": 8}, "has dim 16, the model 8"), ({"registers": 2}, r"lacks .* registers")):
        with pytest.raises(InputError, match=message):
            transfer(source, ViT(ViTConfig(**{**ENCODER, "image": (8, 8), **changes})))  # type: ignore[arg-type]


def test_a_checkpoint_without_a_recipe_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "loops": {}}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="without its configuration"):
        rebuild(tmp_path / "x.ckpt")
    recipe = {"model": {"class_path": "subprocess.Popen", "init_args": {"args": ["false"]}}}
    torch.save({"state_dict": {}, "loops": {}, "recipe": recipe}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"may not name subprocess\.Popen"):
        rebuild(tmp_path / "x.ckpt")
