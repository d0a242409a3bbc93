"""A small Whisper that drafts text for a large one: what it takes to run both over the same windows."""

import torch
from torch import Tensor, nn

from audio.whisper import Whisper
from core.errors import InputError
from core.nn.frozen import Frozen

__all__ = ["Draft"]


class Draft:
    """A model whose text another one checks several tokens at a time; see :mod:`core.generate.speculative`.

    Args:
        model: of the same vocabulary and precision as the other one: for large-v3 it may be distil-large-v3, for medium
            tiny.
        ahead: tokens that are drafted at a time.
    """

    def __init__(self, model: Whisper, ahead: int = 4) -> None:
        if ahead < 1:
            raise InputError(f"{ahead} drafted tokens: expected 1 or more")
        self.model, self.ahead = model.eval(), ahead

    def check(self, model: Whisper) -> None:
        """Make sure that `model` reads what this one writes, and hears the same.

        Raises:
            InputError: if it doesn't.
        """
        for name in ("vocab", "mels", "audio_context", "text_context"):
            mine, other = getattr(self.model.config, name), getattr(model.config, name)
            if mine != other:
                raise InputError(
                    f"the draft model doesn't fit: its {name.replace('_', ' ')} is {mine}, the model's {other}"
                )

    def hears_like(self, model: Whisper) -> bool:
        """Whether both have the same encoder, as distilled models do: then the audio needs to be encoded only once.

        Of layers whose weights are packed that can't be told, unless they are the same objects.
        """
        return _equal(self.model.encoder, model.encoder)


def _equal(a: nn.Module, b: nn.Module) -> bool:
    if a is b:
        return True
    if any(isinstance(module, Frozen) for module in (*a.modules(), *b.modules())):
        return False
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(_same(mine[name], other[name]) for name in mine)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
