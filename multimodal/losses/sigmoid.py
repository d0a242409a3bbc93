"""The sigmoid loss of SigLIP."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .closed_form import Gradients, closed_form
from .exchange import ring
from .tiles import Totals, full, paired, visit

__all__ = ["siglip"]


def siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Sum over all pairs of -log sigmoid(+-(scale * image . text + bias)), per image (arXiv:2303.15343, equation 1).

    Equal to open_clip's ``SigLipLoss``. Each tile of logits is visited once, for the value and for all gradients, and
    never kept. With several processes the texts go around in a ring, both ways at once. The mean over processes of
    values and of gradients is that of the whole batch on one process; each must call it, with the same B, and pass
    the same gradient into it.

    Args:
        image: features (B, D) of unit length, of any floating dtype; sums are float32 at least.
        text: features (B, D) that belong to them.
        scale: 0-d, the inverse temperature.
        bias: 0-d, added to all logits.

    Returns:
        0-d, in float32 at least; differentiable once in all arguments.

    Raises:
        InputError: if the features don't pair up.
    """
    common = paired(image, text)

    def compute(needed: Sequence[bool]) -> tuple[Tensor, Gradients]:
        x, y = image.detach().to(common), text.detach().to(common)
        s, b = scale.detach().to(full(x)), bias.detach().to(full(x))
        value = x.new_zeros((), dtype=torch.float64)
        totals = Totals(x, y, needed) if any(needed) else None

        def compare(texts: Tensor, totals: Totals | None, positives: bool) -> None:
            def look(logits: Tensor, spare: Tensor, rows: slice, columns: slice) -> Tensor | None:
                logits.add_(b)
                # the loss of a positive is that of a negative with the other sign
                matching = logits.diagonal(rows.start - columns.start) if positives else logits[:0, 0]
                matching.neg_()
                value.add_(softplus_sum(logits, spare))
                if totals is None:
                    return None
                logits.sigmoid_()
                matching.neg_()
                return logits

            visit(x, texts, s, look, totals)

        def compare_other(texts: Tensor) -> Tensor | None:
            beside = totals.beside(texts) if totals is not None else None
            compare(texts, beside, positives=False)
            return beside.text if beside is not None else None

        compare(y, totals, positives=True)
        home = ring(y, compare_other)
        loss = (value / len(x)).to(s.dtype)
        if totals is None:
            return loss, [None] * 4
        if home is not None and totals.text is not None:
            totals.text += home
        return loss, totals.gradients(x, s, 1 / len(x))

    return closed_form(compute, image, text, scale, bias)


def softplus_sum(x: Tensor, spare: Tensor) -> Tensor:
    """The sum of log(1 + exp(x)), exact for large and small x, in half of the time of torch's softplus on a CPU.

    `spare`, of the shape of `x`, is written to.
    """
    small = torch.abs(x, out=spare).neg_().exp_().log1p_().sum()
    return small + torch.clamp(x, min=0, out=spare).sum()
