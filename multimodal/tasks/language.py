"""Training of language models and of those that see: what follows each token."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from core.errors import InputError
from core.nn import Ctx, Out, Tokens, token_losses
from core.train.adapt import Adapt
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.processes import summed, world_size
from core.train.schedule import Schedule
from core.train.task import Task
from multimodal.chat_rows import IGNORED
from multimodal.decoder import Decoder
from multimodal.vlm.gated import GatedVisionLanguageModel
from multimodal.vlm.model import VisionLanguageModel

__all__ = ["LanguageModeling", "answered", "decoder_of", "fits", "hits", "share", "states_of"]

Batch = dict[str, Any]
Tongue = Decoder | VisionLanguageModel | GatedVisionLanguageModel

_CHUNK = 1024  # tokens whose logits exist at a time


class LanguageModeling(Task):
    """Cross-entropy of the next token, over those that the batch has targets for.

    On texts (:class:`multimodal.tasks.text_data.TextData`) that is pretraining; on chats
    (:class:`multimodal.tasks.chat_data.ChatData`) supervised fine-tuning, where only answers are targets. LLaVA's first
    stage (arXiv:2304.08485) is ``adapt: core.train.adapt.Only`` with ``parts: [projector]``; a tower that stays as it
    is, ``core.train.adapt.Lock`` with ``parts: [eye]``. The loss is the mean over the targets of all processes.

    Logs ``train/loss`` at each step; of ``val`` and ``test`` the ``loss`` and ``perplexity``, and where there are
    answers ``exact``, the share of them that the model writes token by token when it always takes the most likely one.
    That is known without writing: it does so if and only if each token of the answer is the most likely after those
    before it. The answers before, in the same chat, are the data's own.

    Args:
        model: What is trained.
        balance, z: Weights of the losses of :class:`core.nn.MixtureOfExperts`, means over its blocks.
        smoothing: Share of the target that is spread over the whole vocabulary.
        optim, schedule, ema, initial, adapt: See :class:`core.train.task.Task`.
    """

    def __init__(
        self,
        model: Tongue,
        balance: float = 0.01,
        z: float = 0.001,
        smoothing: float = 0.0,
        optim: Optim = Optim(lr=3e-4, weight_decay=0.1, betas=(0.9, 0.95)),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, optim, schedule, ema, initial, adapt)
        if not 0 <= smoothing < 1 or min(balance, z) < 0:
            raise InputError(f"smoothing {smoothing} must be in [0, 1), balance {balance} and z {z} at least 0")
        self.balance, self.z = balance, z
        self.smoothing = smoothing
        self.mean_loss = MeanMetric()
        self.exact = MeanMetric()

    def setup(self, stage: str) -> None:
        """See that the data is made for the model.

        Raises:
            InputError: If it isn't.
        """
        super().setup(stage)
        fits(self.model, getattr(self.trainer, "datamodule", None))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        states, notes = states_of(self.model, batch)
        head = decoder_of(self.model).output
        loss, count = token_losses(states, head, batch["targets"], IGNORED, self.smoothing)
        mean = loss * share(count, self.device)
        self.log("train/loss", mean, on_step=True, prog_bar=True, sync_dist=True)
        for name, weight in (("balance", self.balance), ("z", self.z)):
            found = named(notes, name)
            if found and weight:
                extra = torch.stack(found).mean()
                self.log(f"train/{name}", extra, on_step=True, sync_dist=True)
                mean = mean + weight * extra
        return mean

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss, and whether answers are right."""
        self._measure(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation."""
        self._measure(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the figures."""
        self._tell("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures."""
        self._tell("test")

    def _measure(self, batch: Batch) -> None:
        states, _ = states_of(self.model, batch)
        head = decoder_of(self.model).output
        loss, count = token_losses(states, head, batch["targets"], IGNORED)
        self.mean_loss.update(loss / max(count, 1), count)
        if "answers" in batch:
            right = answered(hits(states, head, batch["targets"]), batch["answers"][batch["targets"] != IGNORED])
            self.exact.update(right.double().mean(), len(right))

    def _tell(self, split: str) -> None:
        mean = self.mean_loss.compute()
        self.mean_loss.reset()
        self.log_dict({f"{split}/loss": mean, f"{split}/perplexity": mean.exp()}, prog_bar=split == "val")
        if getattr(self.trainer.datamodule, "answers", False):  # type: ignore[attr-defined]
            self.log(f"{split}/exact", self.exact, prog_bar=True)


def states_of(model: Any, batch: Batch) -> Out:
    """The states (B, L, D) of a batch, with notes; pictures go to a model that sees."""
    ctx = Ctx(batch.get("tokens") or Tokens())
    images = batch.get("images")
    if isinstance(model, Decoder):
        if images is not None:
            raise InputError("the data has pictures, and a Decoder can't see: train a model of multimodal.vlm")
        return model.states(batch["ids"], ctx)
    x, notes = model.states(batch["ids"], ctx, images)
    if images is None and world_size() > 1:
        # DDP waits for the gradients of all parameters, also where nobody looked
        unused = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("decoder.")]
        x = x + sum((p * 0).sum() for p in unused)
    return Out(x, notes)


def decoder_of(model: Any) -> Decoder:
    """The language model in a model that may see."""
    found: Decoder = model if isinstance(model, Decoder) else model.decoder
    return found


def fits(model: Any, data: Any) -> None:
    """See that a data module makes tokens that the model knows.

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
    ours = getattr(model, "image_token", None)
    if token is not None and ours is not None and token != ours:
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


@torch.no_grad()
def hits(states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Of each target that counts, in reading order, whether it is the most likely token: (n,) bool."""
    counted = targets != IGNORED
    parts = zip(states[counted].split(_CHUNK), targets[counted].split(_CHUNK), strict=True)
    found = [F.linear(some, head).argmax(-1) == wanted for some, wanted in parts]
    return torch.cat(found)


def answered(right: Tensor, answers: Tensor) -> Tensor:
    """Of each answer, in order of their numbers, whether all of its tokens are right: (answers,) bool.

    Args:
        right: (n,) bool, of the targets.
        answers: (n,) int64, the number of the answer that each belongs to.
    """
    numbers, places = answers.unique(return_inverse=True)
    whole = torch.ones(len(numbers), dtype=torch.long, device=right.device)
    return whole.scatter_reduce(0, places, right.long(), "amin").bool()
