"""Distillation of one two-tower model into another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import InputError

from .closed_form import Gradients, closed_form
from .contrastive import logsumexps
from .exchange import all_rows, returned
from .tiles import Totals, full, paired, product, visit

__all__ = ["distill"]


def distill(
    image: Tensor, text: Tensor, scale: Tensor, teacher_image: Tensor, teacher_text: Tensor, teacher_scale: Tensor
) -> Tensor:
    """Cross-entropy of the student's softmax over texts and over images against the teacher's, their mean.

    Equal to the ``distill_loss`` of open_clip's ``DistillClipLoss``; what that adds is `info_nce`. As there, the
    teacher gets no gradient, and as in `info_nce`, neither model's logits are kept and processes share the work.

    Args:
        image: the student's features (B, D) of unit length; sums are float32 at least.
        text: the student's features (B, D) that belong to them.
        scale: the student's inverse temperature, 0-d.
        teacher_image: the teacher's features (B, E) of the same images.
        teacher_text: the teacher's features (B, E) of the same texts.
        teacher_scale: the teacher's inverse temperature, 0-d.

    Returns:
        0-d, in float32 at least; differentiable once in the student's arguments.

    Raises:
        InputError: if features don't pair up, or the teacher saw another number of images.
    """
    common, teacher_common = paired(image, text), paired(teacher_image, teacher_text)
    if len(image) != len(teacher_image):
        raise InputError(
            f"the student saw {len(image)} images and the teacher {len(teacher_image)}: show both the same"
        )

    def compute(needed: Sequence[bool]) -> tuple[Tensor, Gradients]:
        x, y = image.detach().to(common), all_rows(text.detach().to(common))
        u, v = teacher_image.detach().to(teacher_common), all_rows(teacher_text.detach().to(teacher_common))
        s, t = scale.detach().to(full(x)), teacher_scale.detach().to(full(u))
        by_image, by_text = logsumexps(x, y, s)
        target_by_image, target_by_text = logsumexps(u, v, t)
        value = x.new_zeros((), dtype=torch.float64)

        def look(logits: Tensor, spare: Tensor, rows: slice, columns: slice) -> Tensor:
            to_image = torch.sub(logits, by_image[rows, None], out=spare)
            to_text = logits.sub_(by_text[columns])
            targets = product(u[rows], v[columns].T).mul_(t)
            image_target = (targets - target_by_image[rows, None]).exp_().to(logits.dtype)
            text_target = targets.sub_(target_by_text[columns]).exp_().to(logits.dtype)
            value.sub_((image_target * to_image).sum() + (text_target * to_text).sum())
            return to_image.exp_().add_(to_text.exp_()).sub_(image_target).sub_(text_target)

        totals = Totals(x, y, (*needed, False)) if any(needed) else None
        visit(x, y, s, look, totals)
        share = 1 / (2 * len(x))
        loss = (value * share).to(s.dtype)
        if totals is None:
            return loss, [None] * 3
        *gradients, _ = totals.gradients(x, s, share)
        gradients[1] = None if gradients[1] is None else returned(gradients[1])
        return loss, gradients

    return closed_form(compute, image, text, scale)
