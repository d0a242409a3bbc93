"""A toy of self-distillation: images of four classes, their crops, and a short training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningDataModule, Trainer
from torch import Tensor

from core.data.loader import TrainLoader
from core.data.order import Key, Order, keys
from core.train.optim import Optim
from core.train.resume import Resume
from vision.dino_head import HeadConfig
from vision.tasks.dino import DINO
from vision.tasks.dinov2 import DINOv2, Gram
from vision.vit import ViT, ViTConfig

SHAPE: dict[str, Any] = {"image": (16, 16), "patch": 4, "channels": 1, "dim": 16, "depth": 2, "heads": 2, "classes": 0}
HEAD = HeadConfig(prototypes=32, hidden=24, bottleneck=8)
OPTIM = Optim(lr=2e-3)


class Crops:
    """Batches of random crops that follow from the keys: two of 16 pixels and two of 8 an image."""

    def __getitems__(self, wanted: list[Key]) -> dict[str, Any]:
        seeds = [int(keys(0, epoch, np.array([index]))[0]) % 2**62 for epoch, index in wanted]
        images = [torch.randn(1, 24, 24, generator=torch.Generator().manual_seed(index)) for _, index in wanted]
        return {
            "crops": [self._crops(images, seeds, 16), self._crops(images, seeds, 8)],
            "index": torch.tensor([index for _, index in wanted]),
        }

    def _crops(self, images: list[Tensor], seeds: list[int], size: int) -> Tensor:
        found = []
        for turn in range(2):
            for image, seed in zip(images, seeds, strict=True):
                place = np.random.default_rng([seed, size, turn]).integers(24 - size + 1, size=2)
                found.append(image[:, place[0] : place[0] + size, place[1] : place[1] + size])
        return torch.stack(found)


class Data(LightningDataModule):
    """32 images, 8 in a global batch: 4 steps an epoch."""

    def train_dataloader(self) -> TrainLoader:
        assert self.trainer is not None
        return TrainLoader(Crops(), Order(32, 8, 0, True, self.trainer.global_rank, self.trainer.world_size))


class Keep(Callback):
    """A checkpoint after each of some steps, and the losses of all."""

    def __init__(self, folder: Path, steps: tuple[int, ...] = ()) -> None:
        self.folder = folder
        self.steps = steps
        self.losses: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def dino(noise: float = 0.0, **more: Any) -> DINO:
    """A small DINO."""
    torch.manual_seed(1)
    return DINO(ViT(ViTConfig(**SHAPE, drop_path=noise)), HEAD, optim=OPTIM, **more)


def dinov2(noise: float = 0.0, **more: Any) -> DINOv2:
    """A small DINOv2 with all of its parts."""
    torch.manual_seed(1)
    model = ViT(ViTConfig(**SHAPE, drop_path=noise, registers=1, mask_token=True))
    settings = {"ibot_head": HEAD, "centring": "softmax", "gram": Gram(begin=0.25, renew=0.25), "optim": OPTIM, **more}
    return DINOv2(model, HEAD, **settings)


def fit(task: Any, folder: Path, steps: tuple[int, ...] = (12,), start: Path | None = None, **options: Any) -> Keep:
    """Train for 3 epochs, keeping checkpoints of some steps in a folder."""
    kept = Keep(folder, steps)
    trainer = Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 3,
            "gradient_clip_val": 1.0,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [Resume(0), kept],
            **options,
        }
    )
    trainer.fit(task, Data(), ckpt_path=None if start is None else str(start), weights_only=True)
    return kept


def load(folder: Path, step: int) -> dict[str, Any]:
    """A checkpoint that was kept."""
    return torch.load(folder / f"{step}.ckpt", weights_only=True)


__all__ = ["HEAD", "SHAPE", "Crops", "dino", "dinov2", "fit", "load"]
