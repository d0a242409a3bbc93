"""Swin-T at 224 pixels, batch 8, against timm: inference and a training step, and inference of version 2.

python -m benchmarks.swin [--repeats 9] [--threads 2]
"""

import timm
import torch
from torch import nn

from benchmarks.harness import Case, Contender, main, options
from benchmarks.vit import BATCH, images, stepper
from vision.swin_presets import swin
from vision.swin_weights import swin_table

NAME = "swin_tiny_patch4_window7_224"
NAME_V2 = "swinv2_tiny_window8_256"


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Ours and timm's with the same random weights; no stochastic depth, which would draw other blocks in each."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False, drop_path_rate=0.0, img_size=224)
    ours = swin(name, image=(224, 224))
    ours.load_state_dict(swin_table(ours.config, "timm").load(theirs.state_dict()))
    return ours.eval(), theirs.eval()


def inference(job: str, name: str, precision: torch.dtype, tolerance: float) -> Case:
    """Images to logits, with weights and images of one precision."""
    ours, theirs = (model.to(precision) for model in pair(name))
    batch = images().to(precision)
    return Case(
        job,
        [Contender("sensorium", lambda: ours(batch)), Contender("timm", lambda: theirs(batch))],
        unit="images/s",
        items=BATCH,
        tolerance=tolerance,
    )


def inference_fp32() -> Case:
    """Exact arithmetic."""
    return inference("Swin-T inference, fp32", NAME, torch.float32, 1e-4)


def inference_bf16() -> Case:
    """bf16 weights."""
    return inference("Swin-T inference, bf16", NAME, torch.bfloat16, 0.1)


def inference_v2_fp32() -> Case:
    """Version 2, exact arithmetic."""
    return inference("Swin-T v2 inference, fp32", NAME_V2, torch.float32, 1e-4)


def training_step() -> Case:
    """Forward, backward and optimizer."""
    ours, theirs = pair(NAME)
    return Case(
        "Swin-T training step, fp32",
        [Contender("sensorium", stepper(ours)), Contender("timm", stepper(theirs))],
        unit="images/s",
        items=BATCH,
        tolerance=1e-4,
    )


if __name__ == "__main__":
    main("swin", [inference_fp32, inference_bf16, inference_v2_fp32, training_step], options(__doc__))
