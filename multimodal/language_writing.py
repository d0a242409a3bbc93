"""How a language model is asked for a text, and what comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import InputError
from core.generate import MinP, RepetitionPenalty, Rule, StopTexts, Temperature, TopK, TopP

__all__ = ["Completion", "Writing"]


@dataclass(frozen=True)
class Writing:
    """How a text is looked for.

    Attributes:
        max_new_tokens: at most so many; None for 256, or what the context has room for if that is less.
        temperature: 0 takes the likeliest token, above it tokens are drawn.
        top_k, top_p, min_p: draw among the likeliest only (`core.generate.TopK`, `TopP`, `MinP`), which are applied in
            this order, behind the temperature.
        repetition_penalty: above 1 makes tokens of the prompt and the text less likely.
        beams: beginnings that are kept at temperature 0.
        length_penalty: of the beams (`core.generate.NothingBetter`).
        stop: pieces of text that end it; they are no part of it.
        seed: of the draws: the text of a row follows from it, from the row's number, and not from the other rows.
        schema: JSON schema that the text follows.
        ahead: tokens that a draft model is asked for at a time.

    Raises:
        InputError: for values that make no sense.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    stop: Sequence[str] = ()
    seed: int = 0
    schema: Mapping[str, Any] | str | None = None
    ahead: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if self.temperature < 0 or self.beams < 1 or self.ahead < 1:
            raise InputError(
                f"temperature {self.temperature} must be at least 0, beams {self.beams} and ahead {self.ahead} 1"
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.beams > 1 and self.temperature > 0:
            raise InputError("beams look for the likeliest text: leave the temperature at 0, or use 1 beam")
        try:
            self.rules()
            RepetitionPenalty(self.repetition_penalty)
            StopTexts(self.stop)
        except ValueError as error:
            raise InputError(str(error)) from error

    def rules(self) -> list[Rule]:
        """Return what the settings make of logits before a token is drawn; nothing at temperature 0."""
        rules: list[Rule] = []
        if self.temperature > 0:
            rules.append(Temperature(self.temperature))
        if self.top_k is not None:
            rules.append(TopK(self.top_k))
        if self.top_p is not None:
            rules.append(TopP(self.top_p))
        if self.min_p is not None:
            rules.append(MinP(self.min_p))
        return rules if self.temperature > 0 else []


@dataclass(frozen=True)
class Completion:
    """A text that a model wrote.

    Attributes:
        text: without what ended it.
        tokens: with those of a stop string.
        logprobs: of each token, natural logarithms, after the rules.
        finish: ended by a token or a stop string, or by the limit.
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]
