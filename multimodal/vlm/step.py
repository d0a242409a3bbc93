"""A vision-language model as the loops of `core.generate` call it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.nn import Ctx, Growing, Slot
from multimodal.decoder_step import DecoderStep
from multimodal.vlm.gated import GatedVisionLanguageModel
from multimodal.vlm.model import VisionLanguageModel

__all__ = ["SeeingStep", "features_of"]


class SeeingStep(DecoderStep):
    """The first call shows the pictures; the image tokens of the answer are tokens as any other.

    Args:
        model: the model.
        features: of all pictures (M_i, D) in reading order over the rows, as ``model.features`` makes them.
        others: see :class:`multimodal.decoder_step.DecoderStep`.
    """

    def __init__(
        self,
        model: VisionLanguageModel | GatedVisionLanguageModel,
        features: Any = (),
        make: Callable[[], Slot] = Growing,
        *,
        lengths: Tensor | None = None,
        last: int = 1,
    ) -> None:
        super().__init__(model, make=make, lengths=lengths, last=last)
        self.model = model
        self.features = features

    def __call__(self, tokens: Tensor) -> Tensor:
        """Give the logits (B, L, V) for what follows each of tokens (B, L); of the first call for the last ones."""
        if self.fed == 0 and isinstance(self.model, GatedVisionLanguageModel):
            facts = self._tokens(tokens)
            self.ctx = Ctx(memory=self.model.memory(self._unpadded(tokens), self.features, facts))
        return super().__call__(tokens)

    def _embedded(self, tokens: Tensor) -> Tensor:
        if isinstance(self.model, GatedVisionLanguageModel):
            return tokens
        return self.model.embed(self._unpadded(tokens), self.features)

    def _unpadded(self, tokens: Tensor) -> Tensor:
        """The tokens, with something else where the padding is an image token."""
        index = self._tokens(tokens).index
        return tokens if index is None else tokens.masked_fill(index < 0, 1 if self.model.image_token == 0 else 0)


def features_of(model: VisionLanguageModel | GatedVisionLanguageModel, pixels: list[Tensor], batch: int = 32) -> Any:
    """Return the features (M, D) of every crop of pictures (n_i, C, H, W), some crops at a time."""
    if not pixels:
        return ()
    every = torch.cat(pixels)
    return torch.cat([model.features(some) for some in every.split(batch)])
