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


def inference() -> Case:
    """Images to logits, in float32 and with bf16 weights."""
    ours, theirs = pair()
    ours_bf16, theirs_bf16 = (model.to(torch.bfloat16) for model in pair())
    batch = images()
    small = batch.to(torch.bfloat16)
    return Case(
        "ViT-S/16 inference",
        [
            Contender("sensorium fp32", lambda: ours(batch)),
            Contender("timm fp32", lambda: theirs(batch)),
            Contender("sensorium bf16", lambda: ours_bf16(small), tolerance=0.1),
            Contender("timm bf16", lambda: theirs_bf16(small), tolerance=0.1),
        ],
        unit="images/s",
        items=BATCH,
        tolerance=1e-4,
    )


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
        "ViT-S/16 training step",
        [Contender("sensorium fp32", stepper(ours)), Contender("timm fp32", stepper(theirs))],
        unit="images/s",
        items=BATCH,
        tolerance=1e-4,
    )


if __name__ == "__main__":
    main("vit", [inference, training_step], options(__doc__))
