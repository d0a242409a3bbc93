"""Texts as what a diffusion model is told in training, by a frozen text tower."""

from typing import Any, Literal

import torch
from torch import Tensor

from core.errors import InputError
from core.train.teacher import Frozen
from diffusion.condition import Text
from multimodal.prompts import PromptEncoder, Prompts, open_prompts

__all__ = ["Told"]

SAMPLE = "A photo of two small dogs, 1 white and 1 black."


class Told(Frozen[PromptEncoder]):
    """A frozen text tower: ``text`` of :class:`diffusion.tasks.diffuse.Diffuse`.

    It is in the checkpoint, but for its tokenizer: the folder has to be there whenever the checkpoint is opened. What
    ``sensorium export`` writes has both.

    Args:
        path: See :func:`multimodal.prompts.open_prompts`; the data's ``tokenizer`` may be the same folder.
        precision: What it computes in.
    """

    def __init__(self, path: str, precision: Literal["float32", "bfloat16", "float16"] = "float32") -> None:
        # on the processor and with its values, also where the denoiser is made without any
        with torch.device("cpu"):
            self.opened = open_prompts(path)
        super().__init__(self.opened.encoder, None, precision)
        self.path = path

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Text:
        """Encode texts (B, L) int64, in float32."""
        with self.computing(ids.device.type):
            states, pooled, lengths = self.model(ids)
        return Text(states.float(), pooled.float(), lengths)

    def prompts(self) -> Prompts:
        """The same for texts as people write them."""
        return self.opened

    def check(self, model: Any, data: Any) -> None:
        """See that a model can be told this, and that data has texts for it.

        Raises:
            InputError: If widths differ, or the data has no texts, those of another tokenizer, or longer ones.
        """
        for name in ("text_dim", "pooled_dim"):
            mine, theirs = getattr(self.model, name), getattr(model.config, name)
            if mine != theirs:
                raise InputError(f"the text tower's {name} is {mine}, the model's {theirs}: change the model's config")
        tokenizer, own = getattr(data, "tokenizer", None), self.opened.tokenizer
        if tokenizer is None:
            raise InputError("the data has no texts, which the model is told: use multimodal.tasks.data.ImageTextData")
        if tokenizer.context > own.context:
            raise InputError(f"context {tokenizer.context} of the data: the text tower reads {own.context} tokens")
        if tokenizer.encode(SAMPLE) != own.encode(SAMPLE) or (tokenizer.start, tokenizer.eot) != (own.start, own.eot):
            raise InputError(f"the data's tokenizer isn't that of the text tower: set it to {self.path}")
