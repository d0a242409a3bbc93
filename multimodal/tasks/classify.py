"""Training of a Perceiver to classify whatever it reads: pictures, spectrograms."""

from torch import Tensor

from core.errors import InputError
from core.train.adapt import Adapt
from core.train.classification import Batch, Classification
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from multimodal.perceiver import ClassOutput, Perceiver

__all__ = ["PerceiverClassify"]

_KEYS = ("image", "mel")


class PerceiverClassify(Classification):
    """Cross-entropy over classes: :class:`core.train.classification.Classification`.

    A batch's ``image`` (B, C, H, W) or ``mel`` (B, mels, frames) is what the model reads.
    Spectrograms have to be equally long.

    Args:
        model: The classifier, whose output is a :class:`multimodal.perceiver.ClassOutput`; it knows the classes.
        smoothing, optim, schedule, ema, initial, adapt: See :class:`Classification`.
    """

    def __init__(
        self,
        model: Perceiver,
        smoothing: float = 0.0,
        optim: Optim = Optim(),
        schedule: Schedule = Schedule(),
        ema: float | None = None,
        initial: Initial | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        output = model.config.output
        if not isinstance(output, ClassOutput):
            raise InputError(f"the model's output is a {type(output).__name__}: expected a ClassOutput")
        super().__init__(model, output.classes, smoothing, optim, schedule, ema, initial, adapt)

    def logits(self, batch: Batch) -> Tensor:
        """Those of what there is in a batch."""
        given = next((batch[key] for key in _KEYS if key in batch), None)
        if given is None:
            raise InputError(f"the batches hold {', '.join(batch)}: expected one of {', '.join(_KEYS)}")
        if "positions" in batch:
            # places run from border to border: what is padded further would move
            raise InputError("recordings of different lengths: leave out data.ear.silence to have them equally long")
        try:
            logits: Tensor = self.model(given)
        except ValueError as error:
            raise InputError(f"the data doesn't fit the model: {error}") from error
        return logits.float()
