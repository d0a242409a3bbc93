"""What all training of language models, and of those that see, has in common."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError
from core.nn import Ctx, Out, Tokens
from core.train.processes import summed, world_size
from core.train.task import Task
from multimodal.decoder import Decoder
from multimodal.vlm.gated import GatedVisionLanguageModel
from multimodal.vlm.model import VisionLanguageModel

__all__ = ["Batch", "Tongue", "TongueTask", "decoder_of", "fits", "named", "share", "states_of"]

Batch = dict[str, Any]
Tongue = Decoder | VisionLanguageModel | GatedVisionLanguageModel


class TongueTask(Task):
    """A task whose data has to fit its model, and whose validation and test measure alike.

    Args:
        See :class:`core.train.task.Task`.
    """

    @abstractmethod
    def measure(self, batch: Batch) -> None:
        """Add a batch to the figures."""

    @abstractmethod
    def tell(self, split: str) -> None:
        """Log the figures of ``val`` or ``test``, and begin anew."""

    def setup(self, stage: str) -> None:
        """See that the data is made for the model.

        Raises:
            InputError: If it isn't.
        """
        super().setup(stage)
        fits(self.model, getattr(self.trainer, "datamodule", None))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure."""
        self.measure(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure."""
        self.measure(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the figures."""
        self.tell("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures."""
        self.tell("test")


def states_of(model: Any, batch: Batch) -> Out:
    """The states (B, L, D) of a batch, with notes; pictures go to a model that sees."""
    ctx = Ctx(batch.get("tokens") or Tokens())
    if isinstance(model, Decoder):
        return model.states(batch["ids"], ctx)
    images = batch.get("images")
    x, notes = model.states(batch["ids"], ctx, images)
    if torch.is_grad_enabled() and (images is None or world_size() > 1):
        # what saw nothing, or is behind the layer that is shown, has gradients of zero: DDP waits for those of all
        # parameters, and where no batch of any process has a picture, one process does what several do
        eye = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("decoder.")]
        x = x + sum((p * 0).sum() for p in eye)
    return Out(x, notes)


def decoder_of(model: Any) -> Decoder:
    """The language model in a model that may see."""
    found: Decoder = model if isinstance(model, Decoder) else model.decoder
    return found


def fits(model: Any, data: Any) -> None:
    """See that a data module makes tokens, and perhaps pictures, that the model knows.

    Raises:
        InputError: If it doesn't.
    """
    config = decoder_of(model).config
    vocab = getattr(data, "vocab", None)
    if vocab is not None and vocab > config.vocab:
        raise InputError(f"the data has {vocab} tokens, the model knows {config.vocab}: give it vocab {vocab} or more")
    context = getattr(data, "context", None)
    if context is not None and context > config.context and config.positions == "learned":
        raise InputError(f"the data's context is {context}, the model has {config.context} positions")
    token = data.image_token() if hasattr(data, "image_token") else None
    if token is not None and isinstance(model, Decoder):
        raise InputError("the data has pictures, and a Decoder can't see: train a model of multimodal.vlm.config")
    ours = getattr(model, "image_token", None)
    if token is not None and token != ours:
        raise InputError(f"the tokenizer's image token is {token}, the model's {ours}: give both the same")


def share(count: int, device: torch.device) -> Tensor:
    """What a sum over `count` targets is multiplied by, to be the mean over all processes' once these are averaged."""
    return world_size() / summed(torch.tensor(float(count), device=device)).clamp(min=1)


def named(notes: Mapping[Any, Any], name: str) -> list[Tensor]:
    """The notes of a name, of all blocks and branches."""
    found: list[Tensor] = []
    for key, value in notes.items():
        if key == name:
            found.append(value)
        elif isinstance(value, Mapping):
            found += named(value, name)
    return found
