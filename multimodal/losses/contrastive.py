"""The softmax contrastive loss of CLIP."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .closed_form import Gradients, closed_form
from .exchange import all_rows, logsumexp_of_all, my_rows, returned
from .tiles import Totals, full, inner, paired, visit

__all__ = ["info_nce", "logsumexps"]


def info_nce(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Mean cross-entropy of each image among all texts and of each text among all images (arXiv:2103.00020, figure 3).

    Equal to open_clip's ``ClipLoss``. The logits are made in tiles, once for their sums and once for the gradients, and
    never kept. With several processes the texts are gathered, a process makes the logits of its own images only
    (B x world * B), and gradients of texts return to where they came from. The mean over processes of values and of
    gradients is that of the whole batch on one process; each must call it, with the same B, and pass the same gradient
    into it.

    Args:
        image: features (B, D) of unit length, of any floating dtype; sums are float32 at least.
        text: features (B, D) that belong to them.
        scale: 0-d, the inverse temperature.

    Returns:
        0-d, in float32 at least; differentiable once in all arguments.

    Raises:
        InputError: if the features don't pair up.
    """
    common = paired(image, text)

    def compute(needed: Sequence[bool]) -> tuple[Tensor, Gradients]:
        x, y = image.detach().to(common), all_rows(text.detach().to(common))
        s = scale.detach().to(full(x))
        count, mine = len(x), my_rows(len(x))
        by_image, by_text = logsumexps(x, y, s)
        positive = inner(x, y[mine]) * s
        value = ((by_image.double().sum() + by_text[mine].double().sum()) / 2 - positive.sum()) / count
        if not any(needed):
            return value.to(s.dtype), (None, None, None)

        def look(logits: Tensor, spare: Tensor, rows: slice, columns: slice) -> Tensor:
            torch.sub(logits, by_image[rows, None], out=spare).exp_()
            gradient = logits.sub_(by_text[columns]).exp_().add_(spare)
            gradient.diagonal(mine.start + rows.start - columns.start).sub_(2)
            return gradient

        totals = Totals(x, y, (*needed, False))
        visit(x, y, s, look, totals)
        *gradients, _ = totals.gradients(x, s, 1 / (2 * count))
        gradients[1] = None if gradients[1] is None else returned(gradients[1])
        return value.to(s.dtype), gradients

    return closed_form(compute, image, text, scale)


def logsumexps(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the sum of exp(scale * image @ text.T) over all texts and over the images of all processes.

    Args:
        image: this process's features (B, D).
        text: those of all processes (N, D).
        scale: 0-d.

    Returns:
        (B,) and (N,), in `full` of the features.
    """
    by_image = image.new_full((len(image),), -torch.inf, dtype=full(image))
    by_text = image.new_full((len(text),), -torch.inf, dtype=full(image))

    def look(logits: Tensor, spare: Tensor, rows: slice, columns: slice) -> None:
        for dim, sums, place in ((1, by_image, rows), (0, by_text, columns)):
            top = logits.amax(dim, keepdim=True)
            total = torch.sub(logits, top, out=spare).exp_().sum(dim)
            sums[place] = torch.logaddexp(sums[place], total.log_().add_(top.squeeze(dim)))

    visit(image, text, scale, look)
    return by_image, logsumexp_of_all(by_text)
