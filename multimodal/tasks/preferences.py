"""Direct preference optimisation (arXiv:2305.18290): of two answers, the better one becomes more likely."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from core.data.chats import Told
from core.data.order import Key
from core.data.sets import ItemSet
from core.errors import InputError
from core.nn.vocabulary import token_log_probs
from core.train.adapt import Adapt, LoRA, without_adapters
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.processes import world_size
from core.train.schedule import Schedule
from multimodal.chat_rows import IGNORED, Row, packed, packed_length
from multimodal.tasks.chat_data import ChatData, EncodedChats, shown
from multimodal.tasks.tongue import Batch, Tongue, TongueTask, decoder_of, share, states_of

__all__ = ["PreferenceData", "Preferences", "answer_log_probs", "dpo_losses"]


def dpo_losses(chosen: Tensor, rejected: Tensor, old_chosen: Tensor, old_rejected: Tensor, beta: float) -> Tensor:
    """Equation 7 of the paper, for each pair: (N,).

    Args:
        chosen, rejected: (N,) log-probabilities of the better and the worse answers by the model in training.
        old_chosen, old_rejected: (N,) by the one that it began as.
        beta: how dear it is to move away from that one.
    """
    return -F.logsigmoid(beta * ((chosen - old_chosen) - (rejected - old_rejected)))


def answer_log_probs(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probability of each answer of a batch, (2 N,), summed over its tokens: pair by pair, the better first."""
    states = states_of(model, batch).x
    each = token_log_probs(states, decoder_of(model).output, batch["targets"], IGNORED)
    numbers = batch["answers"][batch["targets"] != IGNORED]
    return each.new_zeros(2 * int(batch["pairs"])).index_add(0, numbers, each)


class Preferences(TongueTask):
    """DPO on pairs of answers (:class:`PreferenceData`).

    What the model began as is its own self without adapters where ``adapt`` is LoRA, else a frozen copy, which the
    checkpoint holds too. The loss is the mean over the pairs of all processes.

    Logs ``train/loss``; of ``val`` and ``test`` ``loss``, ``accuracy`` (the share of pairs where the better answer has
    gained more) and ``margin`` (by how much, times beta).

    Args:
        model: What is trained.
        beta: See :func:`dpo_losses`.
        optim, schedule, ema, initial, adapt: See :class:`core.train.task.Task`.
    """

    def __init__(
        self,
        model: Tongue,
        beta: float = 0.1,
        optim: Optim = Optim(lr=1e-6, weight_decay=0.0, betas=(0.9, 0.95)),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, optim, schedule, ema, initial, adapt)
        if beta <= 0:
            raise InputError(f"beta {beta} must be positive")
        self.beta = beta
        self.reference: nn.Module | None = None
        self.figures = nn.ModuleDict({name: MeanMetric() for name in ("loss", "accuracy", "margin")})

    def configure_model(self) -> None:
        """Keep what the model begins as, before it is adapted."""
        if self.reference is None and not isinstance(self.adapt, LoRA):
            self.reference = copy.deepcopy(self.model).requires_grad_(False).eval()
        super().configure_model()

    def train(self, mode: bool = True) -> "Preferences":
        """Train; what the model began as is never in training."""
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        losses, _ = self._losses(batch)
        loss = losses.sum() * share(len(losses), self.device)
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=world_size() > 1)
        return loss

    def measure(self, batch: Batch) -> None:
        """Add a batch's loss, accuracy and margin."""
        losses, margins = self._losses(batch)
        for name, value in (("loss", losses), ("accuracy", (margins > 0).float()), ("margin", margins)):
            figure: Any = self.figures[name]
            figure.update(value.mean(), len(value))

    def tell(self, split: str) -> None:
        """Log the figures."""
        figures: dict[str, Any] = {f"{split}/{name}": metric for name, metric in self.figures.items()}
        self.log_dict(figures, prog_bar=split == "val")

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        new = answer_log_probs(self.model, batch)
        with torch.no_grad():
            if self.reference is not None:
                old = answer_log_probs(self.reference, batch)
            else:
                with without_adapters(self.model):
                    old = answer_log_probs(self.model, batch)
        losses = dpo_losses(new[::2], new[1::2], old[::2], old[1::2], self.beta)
        gained = (new - old).detach()
        return losses, self.beta * (gained[::2] - gained[1::2])


class _Pairs(ItemSet[list[Any]]):
    """Pairs of chats as rows of tokens, (better, worse); only the last answer of each counts."""

    noun = "pairs"

    def __init__(self, encoded: EncodedChats) -> None:
        self.encoded = encoded
        self.classes, self.labels, self.in_memory = [], None, encoded.in_memory

    def __len__(self) -> int:
        return len(self.encoded)

    def read(self, indices: Sequence[int]) -> list[Any]:
        told = self.encoded.chats.read(indices)
        return [self._pair(each, index) for each, index in zip(told, indices, strict=True)]

    def name(self, index: int) -> str:
        return self.encoded.name(index)

    def _pair(self, told: Told, index: int) -> tuple[Row, Row]:
        prompt, *sides = (told.fields.get(name) or [] for name in ("prompt", "chosen", "rejected"))
        if not all(sides) or not all(isinstance(said, str | list) for said in (prompt, *sides)):
            raise InputError(f"{self.name(index)}: expected an answer in chosen, and one in rejected")
        better, worse = (self._row(_chat(_turns(prompt, "user"), side), told.pictures, index) for side in sides)
        return better, worse

    def _row(self, messages: list[Any], pictures: list[Any], index: int) -> Row:
        row = self.encoded._row(Told({"messages": messages}, pictures), index)
        last = max(row.answers)
        return Row(row.ids, [0 if number == last else -1 for number in row.answers], row.pictures)


class _PairExamples:
    """Batches of pairs in one row, with ``pairs``, how many there are; answers count 2 n for the better, 2 n + 1."""

    def __init__(self, data: "PreferenceData", pairs: ItemSet[list[Any]], training: bool) -> None:
        self.data, self.pairs, self.training = data, pairs, training

    def __getitems__(self, wanted: list[Key]) -> dict[str, Any]:
        indices = [index for _, index in wanted]
        found, _ = self.pairs.take(indices)
        rows = [row for pair in found for row in pair]
        data, doubled = self.data, [index for index in indices for _ in range(2)]
        images = shown(rows, doubled, data.pictures, self.training, data.seed, wanted[0][0])
        return {**packed(rows), **images, "pairs": len(found)}


class PreferenceData(ChatData):
    """Pairs of answers: rows with ``chosen`` and ``rejected``, and perhaps ``prompt``, each a text or messages.

    Without ``prompt``, or where they don't begin with the assistant, both are whole chats. Arguments as in
    :class:`multimodal.tasks.chat_data.ChatData`.
    """

    answers = False

    def _encoded(self, chats: ItemSet[Any]) -> ItemSet[Any]:
        return _Pairs(EncodedChats(chats, self.writer, self.pictures, self.context))

    def _examples(self, items: ItemSet[Any], training: bool) -> Any:
        return _PairExamples(self, items, training)

    def _length(self, item: Any) -> int:
        return sum(packed_length(row) for row in item)


def _chat(before: list[Any], said: Any) -> list[Any]:
    """What was said before, and the answer; or a whole chat, as some data sets have it beside what was said before."""
    turns = _turns(said, "assistant")
    first = turns[0].get("role") if isinstance(turns[0], Mapping) else None
    return before + turns if first == "assistant" else turns


def _turns(said: Any, role: str) -> list[Any]:
    return [{"role": role, "content": said}] if isinstance(said, str) else list(said)
