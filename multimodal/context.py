"""Texts that are longer than those a model was trained with."""

from copy import deepcopy
from dataclasses import replace

from torch import nn

from multimodal.text import stretched
from multimodal.two_towers import TwoTowers

__all__ = ["resized_context"]


def resized_context(model: TwoTowers, context: int, kept: int = 20) -> TwoTowers:
    """Return a copy of a model for texts of up to ``context`` tokens.

    What happens to the positions, and how exact it is: :func:`multimodal.text.stretched`. A tower that takes the last
    column (SigLIP) was trained at one length of row: a longer one needs fine-tuning before it is of use.

    Args:
        model: CLIP or SigLIP.
        context: tokens of a text.
        kept: rows of the positions that stay as they are.

    Raises:
        ValueError: if the context is no positive number.
    """
    if context < 1:
        raise ValueError(f"a context of {context} tokens holds no text")
    copy = deepcopy(model)
    text = copy.text
    text.positions.table = nn.Parameter(stretched(text.positions.table.detach(), context, kept).clone())
    text.config = replace(text.config, context=context)
    copy.config = replace(copy.config, text=text.config)
    return copy
