"""A training step of CLIP ViT-B/32 against open_clip: forward, loss, backward and AdamW, in two precisions.

python -m benchmarks.clip_training [--repeats 9] [--threads 2]

The captions are of the length that captions have (ImageNet's names in sentences, about ten tokens), padded to 77.
"""

import copy
from collections.abc import Callable

import open_clip
import torch
from open_clip.loss import ClipLoss
from torch import Tensor, nn

from benchmarks.harness import Case, Contender, main, options
from benchmarks.zero_shot import MODEL, images, pair
from core.train.master import MasterAdamW
from multimodal.losses import info_nce
from multimodal.templates import imagenet_labels, templates

NAME = "clip_training"


def texts(count: int) -> Tensor:
    """Token ids (count, 77)."""
    sentences = templates("simple")
    labels = imagenet_labels()[:: 1000 // count][:count]
    tokens: Tensor = open_clip.get_tokenizer(MODEL)([sentences[n % 7].format(x) for n, x in enumerate(labels)])
    return tokens


def ours_loss(model: nn.Module, batch: Tensor, ids: Tensor) -> Tensor:
    """As `multimodal.tasks.contrastive.Contrastive` computes it."""
    found = model(batch, ids)
    return info_nce(found.image, found.text, model.logit_scale.exp())  # type: ignore[operator]


def theirs_loss(model: nn.Module, batch: Tensor, ids: Tensor) -> Tensor:
    """As open_clip's ``train_one_epoch`` computes it."""
    loss: Tensor = ClipLoss()(*model(batch, ids))
    return loss


def stepper(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor],
    optimizer: type[torch.optim.AdamW] = torch.optim.AdamW,
    dtype: torch.dtype = torch.float32,
    autocast: bool = False,
) -> Callable[[], Tensor]:
    """One training step; returns the loss and the gradients' norm, which are compared.

    The learning rate is tiny so that all steps do the same work on nearly the same weights.
    """
    model = copy.deepcopy(model).to(dtype).train()
    batch = images().to(dtype)
    ids = texts(len(batch))
    parameters = list(model.parameters())
    chosen = optimizer(parameters, lr=1e-9, weight_decay=0.0, fused=True)  # the fastest for everyone

    def step() -> Tensor:
        with torch.enable_grad():
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = loss_of(model, batch, ids)
            chosen.zero_grad()
            loss.backward()
        chosen.step()
        total = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        return torch.stack([loss.detach().float(), total.float()])

    return step


def training_step() -> Case:
    """Exact arithmetic."""
    ours, theirs = pair()
    return Case(
        "CLIP ViT-B/32 training step, fp32",
        [
            Contender("sensorium fp32", stepper(ours, ours_loss)),
            Contender("open_clip fp32", stepper(theirs, theirs_loss)),
        ],
        unit="pairs/s",
        items=len(images()),
        tolerance=1e-4,
    )


def training_step_bf16() -> Case:
    """Ours keeps float32 copies of its bf16 weights; open_clip's are bf16 alone, or fp32 under autocast."""
    ours, theirs = pair()
    low = torch.bfloat16
    return Case(
        "CLIP ViT-B/32 training step, bf16",
        [
            Contender("sensorium bf16, float32 copies", stepper(ours, ours_loss, MasterAdamW, low)),
            Contender("open_clip autocast", stepper(theirs, theirs_loss, autocast=True)),
            Contender("open_clip bf16", stepper(theirs, theirs_loss, dtype=low)),
        ],
        unit="pairs/s",
        items=len(images()),
        tolerance=0.1,
    )


if __name__ == "__main__":
    main(NAME, [training_step, training_step_bf16], options(__doc__))
