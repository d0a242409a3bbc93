"""A language model that is shown pictures as tokens among those of the text: LLaVA (arXiv:2304.08485), Idefics3."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from core.nn import Cache, Ctx, Growing, Out, Slot
from multimodal.decoder import Decoder
from multimodal.vlm.placing import place

__all__ = ["VisionLanguageModel"]

Features = Sequence[Tensor] | Tensor


class VisionLanguageModel(nn.Module):
    """An eye, a projector and a decoder.

    Args:
        eye: maps pictures (I, C, H, W), or whatever it takes (log-mel frames), to features (I, N, E).
        projector: maps features (I, N, E) to tokens (I, M, D) of the decoder's width.
        decoder: the language model.
        image_token: the token that stands for one feature, in the decoder's vocabulary.

    Raises:
        ValueError: if the vocabulary has no such token.
    """

    def __init__(self, eye: nn.Module, projector: nn.Module, decoder: Decoder, image_token: int) -> None:
        super().__init__()
        if not 0 <= image_token < decoder.config.vocab:
            raise ValueError(f"image token {image_token} is not among the {decoder.config.vocab} of the decoder")
        self.eye = eye
        self.projector = projector
        self.decoder = decoder
        self.image_token = image_token

    def features(self, images: Tensor) -> Tensor:
        """Return what the decoder is shown of images (I, C, H, W): (I, M, D)."""
        return self.projector(self.eye(images))

    def embed(self, ids: Tensor, features: Features | None = None) -> Tensor:
        """Return the embeddings (B, L, D) of tokens (B, L), with features in the place of the image tokens.

        Args:
            ids: with as many image tokens as there are features.
            features: of the pictures of all rows in reading order: (images, M, D), or (M_i, D) of each.

        Raises:
            InputError: if they are more or fewer: which image, and where.
        """
        return place(self.decoder.embed(ids), ids, self.image_token, () if features is None else features)

    def states(self, x: Tensor, ctx: Ctx = Ctx(), images: Tensor | None = None) -> Out:
        """Return the normalised states (B, L, D), with notes.

        Args:
            x: tokens (B, L), or embeddings (B, L, D) as :meth:`embed` makes them.
            ctx: see :meth:`multimodal.decoder.Decoder.states`.
            images: those that the tokens stand for, in reading order over the rows: (I, C, H, W).

        Raises:
            InputError: as :meth:`embed`.
        """
        if not x.is_floating_point():
            fresh = images is not None or ctx.cache is None or not int(ctx.cache.length)
            # in the answer an image token is a token as any other: no picture can stand behind it
            x = self.embed(x, None if images is None else self.features(images)) if fresh else self.decoder.embed(x)
        return self.decoder.states(x, ctx)

    def logits(self, states: Tensor) -> Tensor:
        """Map states (..., D) to logits (..., vocab)."""
        return self.decoder.logits(states)

    def forward(self, x: Tensor, ctx: Ctx = Ctx(), images: Tensor | None = None) -> Out:
        """Return the logits (B, L, vocab), with notes; arguments as in :meth:`states`."""
        states, notes = self.states(x, ctx, images)
        return Out(self.logits(states), notes)

    def cache(self, make: Callable[[], Slot] = Growing) -> Cache:
        """Return an empty key/value cache."""
        return self.decoder.cache(make)
