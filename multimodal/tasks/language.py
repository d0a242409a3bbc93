"""Training of language models and of those that see: what follows each token."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from core.errors import InputError
from core.nn import token_losses
from core.train.adapt import Adapt
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from multimodal.chat_rows import IGNORED
from multimodal.tasks.tongue import Batch, Tongue, TongueTask, decoder_of, named, share, states_of

__all__ = ["LanguageModeling", "answered", "hits"]

_CHUNK = 1024  # tokens whose logits exist at a time


class LanguageModeling(TongueTask):
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

    def measure(self, batch: Batch) -> None:
        """Add a batch's loss, and whether its answers are right."""
        states, _ = states_of(self.model, batch)
        head = decoder_of(self.model).output
        loss, count = token_losses(states, head, batch["targets"], IGNORED)
        self.mean_loss.update(loss / max(count, 1), count)
        if "answers" in batch:
            right = answered(hits(states, head, batch["targets"]), batch["answers"][batch["targets"] != IGNORED])
            self.exact.update(right.double().mean(), len(right))

    def tell(self, split: str) -> None:
        """Log the loss and what follows from it, and the share of right answers."""
        mean = self.mean_loss.compute()
        self.mean_loss.reset()
        self.log_dict({f"{split}/loss": mean, f"{split}/perplexity": mean.exp()}, prog_bar=split == "val")
        if getattr(self.trainer.datamodule, "answers", False):  # type: ignore[attr-defined]
            self.log(f"{split}/exact", self.exact, prog_bar=True)


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
