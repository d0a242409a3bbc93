"""ViT-S/16 and ViT-B/16 at 224 pixels, batch 8, against timm: inference in three precisions and a training step in two.

python -m benchmarks.vit [--repeats 9] [--threads 2]
"""

import copy
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Case, Contender, main, options
from core.nn.precision import fast
from core.train.master import MasterAdamW
from vision.presets import vit
from vision.weights import TIMM

SMALL, BASE = "vit_small_patch16_224", "vit_base_patch16_224"
TITLES = {SMALL: "ViT-S/16", BASE: "ViT-B/16"}
BATCH = 8


def pair(name: str = SMALL) -> tuple[nn.Module, nn.Module]:
    """Ours and timm's with the same random weights."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False)
    ours = vit(name)
    ours.load_state_dict(TIMM.load(theirs.state_dict()))
    return ours.eval(), theirs.eval()


def images() -> Tensor:
    """A batch of random images (B, 3, 224, 224)."""
    return torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def inference_fp32(name: str = SMALL) -> Case:
    """float32, as `fast` makes it and as the model is trained."""
    ours, theirs = pair(name)
    quick = fast(ours, "float32")
    batch = images()
    return Case(
        f"{TITLES[name]} inference, fp32",
        [
            Contender("sensorium fp32", lambda: quick(batch)),
            Contender("timm fp32", lambda: theirs(batch)),
            Contender("sensorium fp32, not packed", lambda: ours(batch)),
        ],
        unit="images/s",
        items=BATCH,
        tolerance=1e-4,
    )


def inference_low(name: str = SMALL) -> Case:
    """bf16 and int8; what torch quantises by itself (FBGEMM, scales found in each call) is the peer for int8."""
    ours, theirs = pair(name)
    bf16, int8 = fast(ours, "bfloat16"), fast(ours, "int8", calibrate=torch.randn(BATCH, 3, 224, 224))
    half = copy.deepcopy(theirs).bfloat16()
    quantised = torch.ao.quantization.quantize_dynamic(theirs, {nn.Linear}, torch.qint8)
    batch = images()
    low = batch.bfloat16()
    return Case(
        f"{TITLES[name]} inference, bf16 and int8",
        [
            Contender("sensorium bf16", lambda: bf16(low)),
            Contender("timm bf16", lambda: half(low)),
            Contender("sensorium int8, calibrated", lambda: int8(low)),
            Contender("timm FBGEMM dynamic int8", lambda: quantised(batch)),
        ],
        unit="images/s",
        items=BATCH,
        tolerance=0.15,  # random weights: rounding errors are large beside logits that say nothing
    )


def inference_fp32_base() -> Case:
    """ViT-B."""
    return inference_fp32(BASE)


def inference_low_base() -> Case:
    """ViT-B."""
    return inference_low(BASE)


def stepper(
    model: nn.Module,
    optimizer: type[torch.optim.AdamW] = torch.optim.AdamW,
    dtype: torch.dtype = torch.float32,
    autocast: bool = False,
) -> Callable[[], Tensor]:
    """One training step (forward, backward, AdamW); returns the gradients' norms, which are compared.

    The learning rate is tiny so that all steps do the same work on nearly the same weights.
    """
    model = copy.deepcopy(model).to(dtype).train()
    batch = images().to(dtype)
    labels = torch.arange(BATCH)
    parameters = list(model.parameters())
    chosen = optimizer(parameters, lr=1e-9, weight_decay=0.0, fused=True)  # the fastest for everyone

    def step() -> Tensor:
        with torch.enable_grad():
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = F.cross_entropy(model(batch), labels)
            chosen.zero_grad()
            loss.backward()
        chosen.step()
        total = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        return torch.stack([loss.detach().float(), total.float()])

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


def training_step_bf16() -> Case:
    """Ours keeps float32 copies of its bf16 weights; timm's weights are bf16 alone, or fp32 under autocast."""
    ours, theirs = pair()
    return Case(
        "ViT-S/16 training step, bf16",
        [
            Contender("sensorium bf16, float32 copies", stepper(ours, MasterAdamW, torch.bfloat16)),
            Contender("timm bf16", stepper(theirs, dtype=torch.bfloat16)),
            Contender("timm autocast", stepper(theirs, autocast=True)),
        ],
        unit="images/s",
        items=BATCH,
        tolerance=0.05,
    )


if __name__ == "__main__":
    cases = [inference_fp32, inference_low, inference_fp32_base, inference_low_base, training_step, training_step_bf16]
    main("vit", cases, options(__doc__))
