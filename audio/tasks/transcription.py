"""Training of speech recognition and translation: the next token of what is said, given the sound."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from audio.decode import Decoder
from audio.examples import Words
from audio.tasks.keywords import fits
from audio.tasks.writer import TranscriptWriter
from audio.teacher_forcing import Heard, encode_padded, forced_states, text_loss
from audio.tokenizer import Task as Purpose
from audio.tokenizer import Tokenizer
from audio.wer import Errors, character_errors, word_errors
from audio.whisper import Whisper
from audio.writing import Writing
from core.errors import InputError
from core.nn import Ctx, Memory, Out
from core.train.adapt import Adapt
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.processes import gathered_items, summed, world_size
from core.train.schedule import Schedule
from core.train.task import Task

__all__ = ["Transcription"]

Batch = dict[str, Any]


class Transcription(Task):
    """Teacher-forced cross-entropy over the targets of :class:`audio.targets.Targets`, as Whisper was trained.

    The loss is the mean over the tokens of all processes that count. An encoder that stays as it is:
    ``adapt: core.train.adapt.Lock`` with ``parts: [encoder]``.

    Logs ``train/loss`` at each step; of ``val`` and ``test`` the ``loss``, and ``wer`` and ``cer``, the share of words
    and characters that greedy decoding gets wrong after Whisper's normalisation (:mod:`audio.wer`), over all
    recordings together.

    Args:
        model: What is trained.
        smoothing: Share of the target that is spread over the whole vocabulary.
        optim, schedule, ema, initial, adapt: See :class:`core.train.task.Task`.
    """

    monitor = "val/wer"

    def __init__(
        self,
        model: Whisper,
        smoothing: float = 0.0,
        optim: Optim = Optim(lr=1e-4, weight_decay=0.01, betas=(0.9, 0.98), eps=1e-6),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, optim, schedule, ema, initial, adapt)
        if not 0 <= smoothing < 1:
            raise InputError(f"smoothing {smoothing} must be in [0, 1)")
        self.smoothing = smoothing
        self.tokenizer = Tokenizer.for_vocab(model.config.vocab)
        self.writing = Writing()
        self.mean_loss = MeanMetric()
        self._found: list[tuple[Errors, Errors]] = []

    @property
    def whisper(self) -> Whisper:
        """The model."""
        assert isinstance(self.model, Whisper)
        return self.model

    def setup(self, stage: str) -> None:
        """See that the data is made for the model.

        Raises:
            InputError: If it isn't.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        config, words = self.whisper.config, self._words()
        for what, ours, its in (
            ("vocab", config.vocab, len(words.tokenizer)),
            ("context", config.text_context, words.context),
        ):
            if ours != its:
                raise InputError(f"the data is made for {what} {its}, the model has {ours}: give both the same")
        fits(data.ear, config.mels, config.audio_context)
        self.writing = Writing(timestamps=words.targets.timestamps > 0)

    def _words(self) -> Words:
        """How the data makes tokens.

        Raises:
            InputError: If it doesn't.
        """
        words = getattr(self.trainer.datamodule, "words", None)  # type: ignore[attr-defined]
        if words is None:
            raise InputError("transcription is trained on audio.tasks.data.SpeechData")
        return words

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        loss, count = self._loss(batch)
        mean = loss * self._share(count)
        self.log("train/loss", mean, on_step=True, prog_bar=True, sync_dist=True)
        return mean

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss, and the errors of what is heard."""
        self._measure(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation."""
        self._measure(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """What is heard, greedily."""
        heard = self._hear(batch)
        targets = self._words().targets
        rows = len(batch["index"])
        task = targets.task or "transcribe"
        texts = transcribed(self.whisper, self.tokenizer, heard, [targets.language] * rows, [task] * rows, self.writing)
        return {"index": batch["index"], "text": texts, "language": targets.language, "task": task}

    def prediction_writer(self, folder: Path) -> TranscriptWriter:
        """Writes ``transcripts.jsonl``, which is a manifest to train on."""
        return TranscriptWriter(folder)

    def on_validation_epoch_end(self) -> None:
        """Log loss and error rates."""
        self._tell("val")

    def on_test_epoch_end(self) -> None:
        """Log loss and error rates."""
        self._tell("test")

    def _share(self, count: int) -> Tensor:
        """What a sum over `count` tokens is multiplied by, to be the mean over all processes' tokens once averaged.

        Processes differ in how many tokens count; the mean of their means would be another loss.
        """
        return world_size() / summed(torch.tensor(float(count), device=self.device)).clamp(min=1)

    def _loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Sum of the losses of a batch's tokens, and how many count."""
        heard = self._hear(batch)
        states = forced_states(self.whisper, heard, batch["tokens"])
        return text_loss(self.whisper, states, batch["labels"], self.smoothing)

    def _hear(self, batch: Batch) -> Heard:
        return encode_padded(self.whisper, batch["mel"], batch.get("positions"))

    def _measure(self, batch: Batch) -> None:
        heard = self._hear(batch)
        states = forced_states(self.whisper, heard, batch["tokens"])
        loss, count = text_loss(self.whisper, states, batch["labels"])
        self.mean_loss.update(loss / max(count, 1), count)
        said, languages = batch["said"], batch["language"]
        texts = transcribed(self.whisper, self.tokenizer, heard, languages, batch["task"], self.writing)
        for reference, text, language, task in zip(said, texts, languages, batch["task"], strict=True):
            written = "en" if task == "translate" else language
            self._found.append(
                (word_errors([reference], [text], written), character_errors([reference], [text], written))
            )

    def _tell(self, split: str) -> None:
        found = gathered_items(self._found)
        self._found = []
        words, characters = (Errors(*map(sum, zip(*errors, strict=True))) for errors in zip(*found, strict=True))
        self.log(f"{split}/loss", self.mean_loss, prog_bar=split == "val")
        self.log_dict({f"{split}/wer": words.rate, f"{split}/cer": characters.rate}, prog_bar=True, sync_dist=True)


def transcribed(
    model: Whisper,
    tokenizer: Tokenizer,
    heard: Heard,
    languages: Sequence[str],
    tasks: Sequence[Purpose],
    writing: Writing = Writing(),
) -> list[str]:
    """What a model writes of recordings, greedily, by Whisper's rules; the texts are without timestamps."""
    texts = [""] * len(languages)
    for language, task in sorted(set(zip(languages, tasks, strict=True))):
        rows = [row for row, its in enumerate(zip(languages, tasks, strict=True)) if its == (language, task)]
        some = Heard(heard.audio[rows], heard.tokens.map(lambda fact, rows=rows: fact[rows]))  # type: ignore[misc]
        decoder = Decoder(_Padded(model, some), tokenizer, writing=writing)  # type: ignore[arg-type]
        found = decoder(some.audio, language, task)
        for row, result in zip(rows, found, strict=True):
            texts[row] = result.text
    return texts


class _Padded:
    """A Whisper as a decoder calls it, that knows which positions of the recordings are their own."""

    def __init__(self, model: Whisper, heard: Heard) -> None:
        self.model = model
        self.heard = heard
        self.config = model.config
        self.new_cache = model.new_cache

    @property
    def decoder(self) -> "_Padded":
        """What makes states and logits."""
        return self

    def states(self, tokens: Tensor, ctx: Ctx) -> Out:
        """As :meth:`audio.whisper.TextDecoder.states`."""
        memory = None if ctx.memory is None else Memory(ctx.memory.x, self.heard.tokens)
        return self.model.decoder.states(tokens, ctx._replace(memory=memory))

    def logits(self, x: Tensor) -> Tensor:
        """As :meth:`audio.whisper.TextDecoder.logits`."""
        return self.model.decoder.logits(x)
