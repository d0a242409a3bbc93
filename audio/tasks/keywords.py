"""Training of classifiers of sounds, such as spoken keywords."""

from typing import Any

from torch import Tensor

from audio.classifier import AudioClassifier
from core.errors import InputError
from core.train.adapt import Adapt
from core.train.classification import Batch, Classification
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule

__all__ = ["Keywords"]


class Keywords(Classification):
    """Cross-entropy over the classes of recordings: :class:`core.train.classification.Classification`.

    Args:
        model: The classifier; its number of classes is the task's.
        smoothing, optim, schedule, ema, initial, adapt: See :class:`Classification`.
    """

    def __init__(
        self,
        model: AudioClassifier,
        smoothing: float = 0.0,
        optim: Optim = Optim(),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(model, model.config.classes, smoothing, optim, schedule, ema, initial, adapt)

    def setup(self, stage: str) -> None:
        """See that the data is made for the model.

        Raises:
            InputError: If it isn't.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        config: Any = self.model.config
        if data is not None:
            fits(data.ear, config.encoder.mels, config.encoder.audio_context)

    def logits(self, batch: Batch) -> Tensor:
        """Those of its recordings."""
        return self.model(batch["mel"], batch.get("positions")).float()


def fits(ear: Any, mels: int, context: int) -> None:
    """See that spectrograms fit an encoder.

    Raises:
        InputError: If they don't.
    """
    if ear.mels != mels:
        raise InputError(f"the data has {ear.mels} mels, the model {mels}: set data.ear.mels")
    if ear.positions > context:
        raise InputError(
            f"the data's window of {ear.seconds:g} s has {ear.positions} positions, the model's audio_context is "
            f"{context}: shorten data.ear.seconds"
        )
