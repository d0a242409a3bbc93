"""Distil-whisper (Gandhi et al. 2023, arXiv:2311.00430): a shallow decoder learns to write what a deep one would."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from audio.losses import told_divergence
from audio.targets import IGNORED
from audio.tasks.transcription import Batch, Transcription
from audio.teacher_forcing import Heard, encode_padded, forced_states
from audio.whisper import Whisper
from core.errors import InputError
from core.train.adapt import Adapt
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from core.train.teacher import Frozen

__all__ = ["Distillation", "Teacher"]


class Teacher(Frozen[Whisper]):
    """A frozen Whisper that is never in training mode.

    Args:
        model: The Whisper.
        initial: Fills it before the training: :class:`audio.tasks.initial.Released`.
        precision: What it computes in.
    """

    def __init__(
        self,
        model: Whisper,
        initial: Initial | None = None,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__(model, initial, precision)

    @torch.no_grad()
    def forward(self, batch: Batch, heard: Heard | None = None) -> Tensor:
        """Return the logits (n, V) of the tokens that count, in float32.

        Args:
            batch: See :class:`audio.examples.SpeechExamples`.
            heard: What a shared encoder heard; None to hear with the teacher's own.
        """
        with self.computing(batch["mel"].device.type):
            heard = heard or encode_padded(self.model, batch["mel"], batch.get("positions"))
            states = forced_states(self.model, heard, batch["tokens"])
            return F.linear(states[batch["labels"] != IGNORED], self.model.decoder.tokens.weight).float()


class Distillation(Transcription):
    """Cross-entropy with labels, which should be the teacher's own transcripts, and divergence from its next tokens.

    The loss is ``label`` * cross-entropy + ``weight`` * KL * T^2, each a mean over the tokens of all processes that
    count; the defaults are distil-whisper's. The student begins with :class:`audio.tasks.initial.Layers`. Where its
    encoder is the teacher's and stays so (``adapt: core.train.adapt.Lock``, ``parts: [encoder]``), it hears for both.

    Logs what :class:`Transcription` does, and ``train/label`` and ``train/divergence``.

    Args:
        model: The student.
        teacher: Who is listened to.
        label, weight: Of the two parts.
        temperature: Of the divergence.
        smoothing, optim, schedule, ema, initial, adapt: See :class:`Transcription`.
    """

    def __init__(
        self,
        model: Whisper,
        teacher: Teacher,
        label: float = 0.8,
        weight: float = 1.0,
        temperature: float = 2.0,
        smoothing: float = 0.0,
        optim: Optim = Optim(lr=1e-4, weight_decay=0.0, betas=(0.9, 0.98), eps=1e-6),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, smoothing, optim, schedule, ema, initial, adapt)
        if min(label, weight) < 0 or temperature <= 0:
            raise InputError(
                f"label {label} and weight {weight} can't be negative, temperature {temperature} must be > 0"
            )
        if teacher.model.config.vocab != model.config.vocab:
            raise InputError(
                f"the teacher has {teacher.model.config.vocab} tokens, the student {model.config.vocab}: give both as "
                "many"
            )
        self.teacher = teacher
        self.label, self.weight, self.temperature = label, weight, temperature
        self._shares_encoder = False

    def setup(self, stage: str) -> None:
        """Fill the student and the teacher."""
        super().setup(stage)
        if stage == "fit" and not self.resumes:
            self.teacher.begin()

    def on_train_start(self) -> None:
        """See whether what the student hears is what the teacher would."""
        super().on_train_start()
        ours, theirs = self.whisper.encoder, self.teacher.model.encoder
        one, other = (dict(encoder.state_dict()) for encoder in (ours, theirs))
        frozen = not any(parameter.requires_grad for parameter in ours.parameters())
        same = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        self._shares_encoder = frozen and same

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        heard = self._hear(batch)
        counted = batch["labels"] != IGNORED
        states = forced_states(self.whisper, heard, batch["tokens"])
        said = F.linear(states[counted], self.whisper.decoder.tokens.weight).float()  # (n, V)
        told = self.teacher(batch, heard if self._shares_encoder else None)
        wanted = batch["labels"][counted]
        label = F.cross_entropy(said, wanted, reduction="sum", label_smoothing=self.smoothing)
        divergence = told_divergence(said, told, self.temperature)
        share = self._share(len(wanted))
        loss = share * (self.label * label + self.weight * divergence)
        parts: dict[str, Any] = {"train/label": share * label, "train/divergence": share * divergence}
        self.log_dict(parts, on_step=True, sync_dist=True)
        self.log("train/loss", loss, on_step=True, prog_bar=True, sync_dist=True)
        return loss
