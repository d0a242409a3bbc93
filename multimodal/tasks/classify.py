"""Training of a Perceiver to classify whatever it reads: pictures, spectrograms."""

from torch import Tensor

from core.errors import InputError
from core.nn import Tokens, padded_tokens
from core.train.adapt import Adapt
from core.train.classification import Batch, Classification
from core.train.initial import Initial
from core.train.optim import Optim
from core.train.schedule import Schedule
from multimodal.perceiver import ClassOutput, Perceiver, SignalInput

__all__ = ["PerceiverClassify"]

_KEYS = ("image", "mel")


class PerceiverClassify(Classification):
    """Cross-entropy over classes: :class:`core.train.classification.Classification`.

    A batch's ``image`` (B, C, H, W) or ``mel`` (B, mels, frames) is what the model reads. Of
    spectrograms of different lengths the padding is not looked at, where a patch has two frames.

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
        try:
            logits: Tensor = self.model(given, self._tokens(batch, given))
        except ValueError as error:
            raise InputError(f"the data doesn't fit the model: {error}") from error
        return logits.float()

    def _tokens(self, batch: Batch, given: Tensor) -> Tokens:
        """Which tokens of a padded batch are to be looked at."""
        positions = batch.get("positions")
        config = getattr(self.model.config, "input", None)
        if positions is None:
            return Tokens()
        if not isinstance(config, SignalInput) or config.patch != (2,):
            raise InputError("recordings of different lengths need patches of (2,): set model.config.input.patch")
        return padded_tokens(positions, given.shape[-1] // 2)
