"""Self-supervised training steps against lightly: DINO over many crops; the packed pass against crop by crop.

python -m benchmarks.ssl [--repeats 9] [--threads 2]
"""

import copy
import itertools
from collections.abc import Callable

import timm
import torch
from lightly.loss import DINOLoss as LightlyDINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from benchmarks.harness import Case, Contender, main, options
from vision.dino_head import DINOHead
from vision.losses import Centre, DINOLoss
from vision.names import timm as timm_table
from vision.presets import vit
from vision.vit import ViT

NAME = "vit_small_patch16_224"
IMAGES = 2
LOCALS = 6
MOMENTUM = 0.996
LR = 1e-9  # so small that all steps do the same work on nearly the same weights


def crops() -> list[Tensor]:
    """Two global crops (2 * IMAGES, 3, 224, 224) and the local ones (LOCALS * IMAGES, 3, 96, 96)."""
    make = torch.Generator().manual_seed(1)
    return [torch.randn(count * IMAGES, 3, size, size, generator=make) for count, size in ((2, 224), (LOCALS, 96))]


def pair() -> tuple[tuple[ViT, DINOHead], tuple[nn.Module, nn.Module]]:
    """Our backbone and head, and theirs with the same random weights."""
    torch.manual_seed(0)
    backbone = timm.create_model(NAME, pretrained=False, num_classes=0, dynamic_img_size=True)
    head = DINOProjectionHead(384, 2048, 256, 65536)
    ours, our_head = vit(NAME, classes=0), DINOHead(384)
    ours.load_state_dict(timm_table(ours.config).load(backbone.state_dict()))
    names = {"last_layer.weight_g": "last.scale", "last_layer.weight_v": "last.weight"}
    our_head.load_state_dict({names.get(n, n.replace("layers.", "mlp.")): x for n, x in head.state_dict().items()})
    return (ours, our_head), (backbone, head)


def report(loss: Tensor, modules: list[nn.Module]) -> Tensor:
    """What is compared: the loss, and the norm of all gradients."""
    grads = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    return torch.stack([loss.detach().float(), nn.utils.get_total_norm(grads).float()])


def ours(backbone: ViT, head: DINOHead, autocast: bool) -> Callable[[], Tensor]:
    """A step as `vision.tasks.dino.DINO` takes it."""
    student = nn.ModuleList([backbone, head]).train()
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    loss_of = DINOLoss(Centre(65536))
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, fused=True)
    views = crops()

    def step() -> Tensor:
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            with torch.no_grad():
                targets = teacher[1](teacher[0](views[0]))
            features = torch.cat([backbone.pool(tokens) for tokens in backbone.packed(views)])
            logits = head(features)
            loss = loss_of(logits.unflatten(0, (-1, IMAGES)), targets.unflatten(0, (-1, IMAGES)), 0.04)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averages: list[Tensor] = list(teacher.parameters())
        present: list[Tensor] = list(student.parameters())
        torch._foreach_lerp_(averages, present, 1 - MOMENTUM)
        loss_of.centring.value.zero_()  # type: ignore[attr-defined]
        return report(loss, [student])

    return step


def lightly(backbone: nn.Module, head: nn.Module, autocast: bool) -> Callable[[], Tensor]:
    """A step as lightly's example for DINO takes it, its views one after the other."""
    backbone, head = backbone.train(), head.train()
    teacher, teacher_head = copy.deepcopy(backbone), copy.deepcopy(head)
    deactivate_requires_grad(teacher)
    deactivate_requires_grad(teacher_head)
    loss_of = LightlyDINOLoss(65536)
    trained = [p for p in itertools.chain(backbone.parameters(), head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR)
    views = [view for group in crops() for view in group.split(IMAGES)]

    def step() -> Tensor:
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            update_momentum(backbone, teacher, m=MOMENTUM)
            update_momentum(head, teacher_head, m=MOMENTUM)
            targets = [teacher_head(teacher(view).flatten(1)) for view in views[:2]]
            logits = [head(backbone(view).flatten(1)) for view in views]
            loss = loss_of(targets, logits, teacher_temp=0.04)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_of.center.zero_()
        return report(loss, [backbone, head])

    return step


def dino(autocast: bool, name: str, tolerance: float) -> Case:
    """The whole step: teacher, student, loss, backward, optimizer, average."""
    mine, theirs = pair()
    return Case(
        f"DINO step, ViT-S/16, 2 x 224 + {LOCALS} x 96, {name}",
        [
            Contender(f"sensorium {name}", ours(*mine, autocast)),
            Contender(f"lightly {name}", lightly(*theirs, autocast)),
        ],
        unit="images/s",
        items=IMAGES,
        tolerance=tolerance,
    )


def dino_fp32() -> Case:
    """Exact arithmetic."""
    return dino(False, "fp32", 1e-4)


def dino_bf16() -> Case:
    """Both under autocast to bf16."""
    return dino(True, "bf16 autocast", 0.05)


def packed_pass() -> Case:
    """Forward and backward of the student over all crops: one packed row against one call for each crop."""
    torch.manual_seed(0)
    model = vit(NAME, classes=0)
    groups = crops()

    def run(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def step() -> Tensor:
            with torch.enable_grad():
                model.zero_grad()
                loss = forward().square().mean()
            loss.backward()
            return report(loss, [model])

        return step

    packed = run(lambda: torch.cat([model.pool(tokens) for tokens in model.packed(groups)]))
    alone = run(lambda: torch.cat([model(crop) for group in groups for crop in group.split(IMAGES)]))
    return Case(
        f"DINOv2 student pass, ViT-S/16, 2 x 224 + {LOCALS} x 96, fp32",
        [Contender("sensorium packed", packed), Contender("crop by crop", alone)],
        unit="images/s",
        items=IMAGES,
        tolerance=1e-4,
    )


if __name__ == "__main__":
    main("ssl", [dino_fp32, dino_bf16, packed_pass], options(__doc__))
