"""All configurations of pictures with captions, made small, run two steps and can be used."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.weights import Bundle, from_plain, save_bundle
from multimodal.two_towers import TwoTowers, TwoTowersConfig
from sensorium.cli import main
from sensorium.towers import open_towers
from vision.vit import ViT, ViTConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "multimodal"
IMAGE = {"dim": 32, "depth": 1, "heads": 2}
TEXT = {"dim": 32, "depth": 1, "heads": 2, "embed": 32}
CLIP = {
    "image": {"patch": 32, "patch_bias": False, "classes": 0, "pre_norm": True, "eps": 1e-5, **IMAGE},
    "text": {"context": 77, **TEXT},
}
# those of the repository's own pictures are in other tests
NAMES = sorted(p.stem for p in CONFIGS.glob("*.yaml") if "ImageTextData" in p.read_text() and "fashion" not in p.stem)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 JPEGs and a table of captions."""
    folder = tmp_path_factory.mktemp("pairs")
    random = np.random.default_rng(0)
    rows = ["path,caption"]
    for number in range(12):
        Image.fromarray(random.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
        rows.append(f"{number}.jpg,picture number {number}")
    (folder / "train.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_recipe(name: str, pairs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    quick = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
    quick += ["--trainer.precision=32-true", "--data.batch_size=4", "--data.workers=0", "--data.hold_out=0.4"]
    where = "--model.init_args.model.init_args.config."
    if name == "coca_vit_base":
        small = {f"image.{key}": value for key, value in {"patch": 32, **IMAGE}.items()}
        small |= {"dim": 32, "embed": 32, "depth": 1, "heads": 2, "decoder_depth": 1, "decoder_heads": 2}
        small |= {"queries": 4, "pool_heads": 2}
    else:
        small = {f"image.init_args.{key}": value for key, value in IMAGE.items()}
        small |= {f"text.{key}": value for key, value in TEXT.items()}
    if name == "lit_vit_base":
        shape = ViTConfig(classes=0, **IMAGE)
        save_bundle(tmp_path / "start", ViT(shape), Bundle("vision.ViT", {"classes": 0, **IMAGE}))
        quick.append(f"--model.initial.init_args.path={tmp_path / 'start'}")
    if name in ("finetune_clip", "lora_clip"):
        model = TwoTowers(from_plain(TwoTowersConfig, CLIP))
        save_bundle(tmp_path / "start", model, Bundle("multimodal.TwoTowers", CLIP))
        quick.append(f"--model.initial.init_args.source={tmp_path / 'start'}")
    changes = [f"{where}{key}={value}" for key, value in small.items()]
    main(
        [
            "fit",
            "-c",
            str(CONFIGS / f"{name}.yaml"),
            "--data.root",
            str(pairs),
            *quick,
            *changes,
            "--runs",
            str(tmp_path),
        ]
    )
    towers = open_towers(str(next((tmp_path / name).rglob("last.ckpt"))))
    ids = towers.tokenizer(["picture number 1", "another"])
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        image, text = towers.model(images, ids)[:2]
    assert image.shape == text.shape == (2, 32)
    assert torch.isfinite(image @ text.T).all()
    assert "val/text_to_image_R@1" in next((tmp_path / name).rglob("metrics.csv")).read_text()
    if name == "lit_vit_base":
        start = {name: tensor for name, tensor in load(tmp_path / "start").items() if not name.startswith("head")}
        held = towers.model.image.state_dict()
        assert all(torch.equal(held[name], tensor) for name, tensor in start.items())


def load(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
