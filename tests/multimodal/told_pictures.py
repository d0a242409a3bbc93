"""A small model of texts with random weights, and a bundle of it, for tests."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core.weights import Bundle, save_bundle
from diffusion.mmdit import MMDiT, MMDiTConfig
from multimodal.prompts import open_prompts
from multimodal.text_to_image import TextToImage

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "assets" / "clip_fashion_mnist"
SMALL = {"image": (8, 8), "channels": 1, "patch": 2, "depth": 2, "heads": 2, "head_dim": 16, "most": 4}
FLOW = {"class_path": "diffusion.process.Flow", "init_args": {}}
PIXELS = {"class_path": "diffusion.latents.Pixels", "init_args": {"channels": 1}}


def small_mmdit(seed: int = 1, **changes: Any) -> MMDiT:
    """An MMDiT for grey pictures of 8 x 8 and the texts of the small CLIP; all its weights are drawn."""
    config: dict[str, Any] = {**SMALL, "text_dim": 96, "pooled_dim": 96, **changes}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = MMDiT(MMDiTConfig(**config)).eval()
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def small_bundle(folder: Path, seed: int = 1) -> Path:
    """A bundle of it in `folder`."""
    prompts = open_prompts(CLIP)
    model = TextToImage(small_mmdit(seed), prompts.encoder)
    said = Bundle(
        "multimodal.TextToImage",
        asdict(model.config),
        preprocessing={"latents": PIXELS},
        tokenizer={"files": sorted(prompts.files)},
        notes={"process": FLOW, "generate": {"steps": 4, "guidance": 2.0}},
    )
    save_bundle(folder, model, said, prompts.files)
    return folder
