"""What Whisper is to write of a recording: the tokens that it is trained on.

Radford et al. 2022 (arXiv:2212.04356), section 2.3: previous text, which counts for no loss; start, language and task;
then segments between timestamps, or text without them; the end. Source: openai/whisper ``whisper/decoding.py``, whose
decoding begins with the same tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from audio.languages import language_code
from audio.tokenizer import TIMESTAMPS, Task, Tokenizer
from core.data.utterance import Spoken, Utterance
from core.errors import InputError

__all__ = ["IGNORED", "Target", "Targets", "padded"]

IGNORED = -100  # a label that counts for nothing, as in PyTorch's cross-entropy
_STEP = 0.02  # seconds from one timestamp to the next


class Target(NamedTuple):
    """The tokens of a recording, and the first of them that the model is trained to predict."""

    tokens: list[int]
    counted: int


@dataclass(frozen=True)
class Targets:
    """Makes targets of utterances.

    Attributes:
        timestamps: share of the targets in which the segments' times are written, where they are known; the others say
            that no timestamps are wanted.
        whole: whether a recording without segments counts as one segment, from its start to its end.
        prompts: share of the targets that show what was said before, where that is known.
        language: of utterances that don't tell theirs.
        task: of all utterances; None for what each tells.
    """

    timestamps: float = 0.5
    whole: bool = False
    prompts: float = 0.5
    language: str = "en"
    task: Task | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.timestamps <= 1 and 0 <= self.prompts <= 1):
            raise InputError(f"timestamps {self.timestamps} and prompts {self.prompts} are shares: they lie in [0, 1]")

    def __call__(
        self,
        tokenizer: Tokenizer,
        said: Utterance,
        seconds: float,
        draws: Sequence[float] = (0.0, 0.0),
        context: int = 448,
        scale: float = 1.0,
        offset: float = 0.0,
    ) -> Target:
        """The target of one recording.

        Args:
            tokenizer: of the model.
            said: what is said.
            seconds: length of the recording.
            draws: two numbers in [0, 1): timestamps are written, and the prompt shown, where theirs is below the share.
            context: of the decoder; the prompt takes less than half of it.
            scale, offset: a time t of the utterance is now at offset + scale * t: the recording was changed.

        Raises:
            InputError: if the text is unknown or longer than the context, or the model doesn't know the language.
        """
        if said.text is None:
            raise InputError("a recording without a text: nothing to learn from it")
        segments = said.segments
        if not segments and self.whole and said.text:
            segments = (Spoken(0.0, (seconds - offset) / scale, said.text),)
        task: Task = self.task or ("translate" if said.task == "translate" else "transcribe")
        start = list(tokenizer.sot_sequence(said.language or self.language, task))
        if segments and draws[0] < self.timestamps:
            text = self._timed(tokenizer, segments, seconds, scale, offset)
        else:
            start.append(tokenizer.no_timestamps)
            text = tokenizer.encode(" " + said.text) if said.text else []
        before: list[int] = []
        if said.prompt and draws[1] < self.prompts:
            before = [tokenizer.sot_prev, *tokenizer.encode(" " + said.prompt.strip())[-(context // 2 - 1) :]]
        tokens = [*before, *start, *text, tokenizer.eot]
        if len(tokens) > context + 1:  # the last one is predicted, never read
            room = context + 1 - len(start) - len(text) - 1
            if room < 0:
                raise InputError(f"its text makes {len(start) + len(text)} tokens, the decoder takes {context}")
            before = [tokenizer.sot_prev, *before[1:][-(room - 1) :]] if room > 1 else []
            tokens = [*before, *start, *text, tokenizer.eot]
        return Target(tokens, len(before) + 1)

    def _timed(
        self, tokenizer: Tokenizer, segments: Sequence[Spoken], seconds: float, scale: float, offset: float
    ) -> list[int]:
        tokens: list[int] = []
        for segment in segments:
            times = [min(max(offset + scale * time, 0.0), seconds) for time in segment[:2]]
            first, last = (tokenizer.timestamp_begin + min(round(time / _STEP), TIMESTAMPS - 1) for time in times)
            tokens += [first, *tokenizer.encode(" " + segment.text.strip()), last]
        return tokens


def languages_known(tokenizer: Tokenizer, targets: Targets, utterances: Sequence[Utterance]) -> None:
    """See that the model knows all languages.

    Raises:
        InputError: if it doesn't.
    """
    for language in sorted({said.language or targets.language for said in utterances}):
        tokenizer.sot_sequence(language_code(language), targets.task or "transcribe")


def padded(targets: Sequence[Target], eot: int) -> tuple[Tensor, Tensor]:
    """What the decoder reads and what it should predict, each (B, L) int64; padding reads `eot` and is `IGNORED`.

    The decoder is causal, so padding at the end changes nothing that counts.
    """
    length = max(len(target.tokens) for target in targets) - 1
    tokens = torch.full((len(targets), length), eot)
    labels = torch.full((len(targets), length), IGNORED)
    for row, (said, counted) in enumerate(targets):
        tokens[row, : len(said) - 1] = torch.tensor(said[:-1])
        labels[row, counted - 1 : len(said) - 1] = torch.tensor(said[counted:])
    return tokens, labels
