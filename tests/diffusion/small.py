"""A small DiT with random weights, and a bundle of it, for tests of what is done with models."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core.weights import Bundle, save_bundle
from diffusion.dit import DiT, DiTConfig

LABELS = ("T-shirt/top", "Trouser", "Ankle boot", "tench, Tinca tinca")
FLOW = {"class_path": "diffusion.process.Flow", "init_args": {}}
GAUSSIAN = {"class_path": "diffusion.process.Gaussian", "init_args": {"steps": 100}}
PIXELS = {"class_path": "diffusion.latents.Pixels", "init_args": {"channels": 1}}


def small_dit(**changes: Any) -> DiT:
    """A DiT for grey pictures of 8 x 8, whose weights are all drawn: published ones begin as zeros in part."""
    settings: dict[str, Any] = {"image": (8, 8), "channels": 1, "patch": 2, "dim": 32, "depth": 2, "heads": 2}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = DiT(DiTConfig(**{**settings, "classes": len(LABELS), **changes})).eval()
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def small_bundle(
    folder: Path, process: dict[str, Any] = FLOW, labels: tuple[str, ...] = LABELS, **changes: Any
) -> Path:
    """A bundle of it in `folder`."""
    model = small_dit(**changes)
    said = Bundle(
        "diffusion.DiT",
        asdict(model.config),
        preprocessing={"latents": PIXELS},
        labels=labels,
        notes={"process": process, "generate": {"steps": 6, "guidance": 2.0}},
    )
    save_bundle(folder, model, said)
    return folder
