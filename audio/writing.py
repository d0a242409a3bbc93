"""What Whisper may write: which tokens may follow which.

Source of the rules: openai/whisper ``whisper/decoding.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audio.tokenizer import Tokenizer
from core.errors import InputError
from core.generate import NoRepeatNGram, RepetitionPenalty, Rule, Suppress, SuppressAtBegin

__all__ = ["ANNOTATIONS", "TimestampRules", "Writing", "whisper_rules"]

ANNOTATIONS = -1  # in `suppress_tokens`: all that is written, but not spoken
LATEST_START = 50  # timestamp steps of 20 ms: a window's first segment begins within its first second


@dataclass(frozen=True)
class Writing:
    """What the text of a window may be.

    Attributes:
        timestamps: write when segments start and end; without, a window is one segment.
        latest_start: seconds of a window in which its first segment starts; None: in any.
        suppress_tokens: never written, beside those that control the model; `ANNOTATIONS` stands for brackets, speaker
            tags and the like.
        suppress_blank: begin with something to be seen.
        repetition_penalty: makes what was written in the window before less likely when above 1.
        no_repeat_ngram_size: tokens of a run that may not come twice in a window; 0: any may.
        max_new_tokens: of a window; None: half of what the model has positions for.
        hotwords: names and terms that the model is shown before each window that has no prefix.
        prefix: how the text of the first window begins; it is not part of what is found.

    Raises:
        InputError: for a number that makes no sense.
    """

    timestamps: bool = True
    latest_start: float | None = 1.0
    suppress_tokens: Sequence[int] = (ANNOTATIONS,)
    suppress_blank: bool = True
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    max_new_tokens: int | None = None
    hotwords: str | None = None
    prefix: str | None = None

    def __post_init__(self) -> None:
        if self.repetition_penalty <= 0:
            raise InputError(f"a repetition penalty of {self.repetition_penalty}: expected above 0, 1 changes nothing")
        if self.no_repeat_ngram_size < 0:
            raise InputError(f"runs of {self.no_repeat_ngram_size} tokens: expected 0 or more")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InputError(f"{self.max_new_tokens} new tokens: expected 1 or more")
        if self.latest_start is not None and self.latest_start < 0:
            raise InputError(f"a latest start at {self.latest_start} s: expected 0 or more")


class TimestampRules:
    """Timestamps open the transcript, come in pairs and never go back; text yields when they are likelier in sum.

    A `Rule` of `core.generate` for the vocabulary of `tokenizer`. The first timestamp is at most `latest_start` steps
    of 20 ms; None: any.
    """

    def __init__(self, tokenizer: Tokenizer, latest_start: int | None = LATEST_START) -> None:
        self.begin = tokenizer.timestamp_begin
        self.eot = tokenizer.eot
        self.no_timestamps = tokenizer.no_timestamps
        self.latest_start = latest_start

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        text, times = logits[:, : self.begin], logits[:, self.begin :]  # views: (B, text), (B, timestamps)
        logits[:, self.no_timestamps] = -torch.inf
        if tokens.shape[1] == 0:
            text.fill_(-torch.inf)
            if self.latest_start is not None:
                times[:, self.latest_start + 1 :] = -torch.inf
            return
        self._keep_order(logits, times, tokens)
        timestamp_wins = times.logsumexp(dim=-1) > text.amax(dim=-1)
        text.masked_fill_(timestamp_wins[:, None], -torch.inf)

    def _keep_order(self, logits: Tensor, times: Tensor, tokens: Tensor) -> None:
        stamped = tokens >= self.begin  # (B, n)
        last = stamped[:, -1]
        closes = last & ~stamped[:, -2] if tokens.shape[1] > 1 else torch.zeros_like(last)
        opens = last & ~closes
        logits[:, : self.eot].masked_fill_(closes[:, None], -torch.inf)  # an end is followed by a start or by nothing
        # A start may equal the end before it; an end must lie after its start, or decoding could stand still.
        latest = tokens.masked_fill(~stamped, self.begin - 1).amax(dim=1) - self.begin
        first = torch.where(closes, latest, latest + 1)
        steps = torch.arange(times.shape[1], device=times.device)
        times.masked_fill_((steps < first[:, None]) | opens[:, None], -torch.inf)


def whisper_rules(tokenizer: Tokenizer, writing: Writing = Writing()) -> list[Rule]:
    """OpenAI's rules: no blank start, no annotations, no control tokens, orderly timestamps; and those of `writing`."""
    rules: list[Rule] = []
    if writing.repetition_penalty != 1:
        rules.append(RepetitionPenalty(writing.repetition_penalty))
    if writing.no_repeat_ngram_size:
        rules.append(NoRepeatNGram(writing.no_repeat_ngram_size))
    if writing.suppress_blank:
        rules.append(SuppressAtBegin([*tokenizer.encode(" "), tokenizer.eot]))
    rules.append(Suppress(_never(tokenizer, writing.suppress_tokens)))
    if writing.timestamps:
        latest = writing.latest_start
        rules.append(TimestampRules(tokenizer, None if latest is None else round(latest / 0.02)))
    return rules


def _never(tokenizer: Tokenizer, asked: Sequence[int]) -> list[int]:
    unknown = [token for token in asked if token != ANNOTATIONS and not 0 <= token < len(tokenizer)]
    if unknown:
        raise InputError(f"token {unknown[0]} to be suppressed: expected {ANNOTATIONS}, or 0 to {len(tokenizer) - 1}")
    control = [tokenizer.sot, tokenizer.sot_prev, tokenizer.sot_lm, tokenizer.no_speech]
    control += [tokenizer.special("transcribe"), tokenizer.special("translate")]
    annotations = tokenizer.non_speech_tokens if ANNOTATIONS in asked else ()
    return [*(token for token in asked if token != ANNOTATIONS), *annotations, *control]
