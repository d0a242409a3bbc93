"""ViT-S/16 at 224 pixels, batch 8, against timm: inference and a training step.

python -m benchmarks.vit [--repeats 9] [--threads 2]
"""

from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Case, Contender, main, options
from vision.presets import vit
from vision.weights import TIMM

NAME = "vit_small_patch16_224"
BATCH = 8


def pair() -> tuple[nn.Module, nn.Module]:
    """Ours and timm's with the same random weights."""
    torch.manual_seed(0)
    theirs = timm.create_model(NAME, pretrained=False)
    ours = vit(NAME)
    ours.load_state_dict(TIMM.load(theirs.state_dict()))
    return ours.eval(), theirs.eval()


def images() -> Tensor:
    """A batch of random images (B, 3, 224, 224)."""
    return torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def inference(precision: torch.dtype, name: str, tolerance: float) -> Case:
    """Images to logits, with weights and images of one precision."""
    ours, theirs = (model.to(precision) for model in pair())
    batch = images().to(precision)
    return Case(
        f"ViT-S/16 inference, {name}",
        [Contender(f"sensorium {name}", lambda: ours(batch)), Contender(f"timm {name}", lambda: theirs(batch))],
        unit="images/s",
        items=BATCH,
        tolerance=tolerance,
    )


def inference_fp32() -> Case:
    """Exact arithmetic."""
    return inference(torch.float32, "fp32", 1e-4)


def inference_bf16() -> Case:
    """bf16 weights, the fast way on a processor."""
    return inference(torch.bfloat16, "bf16", 0.05)


def stepper(model: nn.Module) -> Callable[[], Tensor]:
    """One training step (forward, backward, AdamW); returns the gradients' norms, which are compared.

    The learning rate is tiny so that all steps do the same work on nearly the same weights.
    """
    model.train()
    batch = images()
    labels = torch.arange(BATCH)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-9, weight_decay=0.0)

    def step() -> Tensor:
        with torch.enable_grad():
            loss = F.cross_entropy(model(batch), labels)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        return torch.stack([loss.detach(), nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])])

    return step


def training_step() -> Case:
    """Forward, backward and optimizer."""
    ours, theirs = pair()
    return Case(
        "ViT-S/16 training step, fp32",
        [Contender("sensorium fp32", stepper(ours)), Contender("timm fp32", stepper(theirs))],
        unit="images/s",
        items=BATCH,
        tolerance=1e-4,
    )


if __name__ == "__main__":
    main("vit", [inference_fp32, inference_bf16, training_step], options(__doc__))
