"""Decode again, more and more at random, what came out badly.

Source of the rules: openai/whisper ``whisper/transcribe.py``, ``decode_with_fallback``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from audio.decode import Decoder, DecodingResult, Search
from audio.tokenizer import Task
from core.errors import InputError

__all__ = ["Fallback"]


@dataclass(frozen=True)
class Fallback:
    """What a good text is, and the temperatures at which windows are decoded until theirs is.

    Attributes:
        temperatures: the first one that leads to a good text is the last one that is tried.
        compression_ratio_threshold: a text that zlib shortens more than this repeats itself. None: none does.
        logprob_threshold: a text whose tokens are less likely than this on average is a guess. None: none is.
        no_speech_threshold: a window is silent when nobody speaks more likely than this, and its text is a guess. None:
            none is.
    """

    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6

    def __post_init__(self) -> None:
        if not self.temperatures or min(self.temperatures) < 0:
            raise InputError(f"temperatures {self.temperatures}: expected one or more, none below 0")

    def __call__(
        self,
        decoder: Decoder,
        audio: Tensor,
        language: str | Sequence[str],
        task: Task = "transcribe",
        prompt: Sequence[int] = (),
        search: Search = Search(),
        names: Sequence[int] | None = None,
        prefix: Sequence[int] = (),
    ) -> list[DecodingResult]:
        """Decode windows `audio` (B, S, D) as ``decoder`` does, each at the first temperature that does for it."""
        names = range(len(audio)) if names is None else names
        languages = [language] * len(audio) if isinstance(language, str) else language
        found: dict[int, DecodingResult] = {}
        left = list(range(len(audio)))
        for temperature in self.temperatures:
            again = replace(search, temperature=temperature)
            codes, numbers = [languages[row] for row in left], [names[row] for row in left]
            results = decoder(audio[left], codes, task, prompt, again, numbers, prefix)
            found |= dict(zip(left, results, strict=True))
            left = [row for row in left if self.bad(found[row])]
            if not left:
                break
        return [found[row] for row in range(len(audio))]

    def bad(self, result: DecodingResult) -> bool:
        """Whether a window should be decoded once more. A silent one is as it should be."""
        repeats = self.compression_ratio_threshold is not None and (
            result.compression_ratio > self.compression_ratio_threshold
        )
        return (repeats or self._guessed(result)) and not (self._guessed(result) and self._unvoiced(result))

    def silent(self, result: DecodingResult) -> bool:
        """Whether nobody speaks."""
        likely = self.logprob_threshold is not None and result.avg_logprob > self.logprob_threshold
        return self._unvoiced(result) and not likely

    def _guessed(self, result: DecodingResult) -> bool:
        return self.logprob_threshold is not None and result.avg_logprob < self.logprob_threshold

    def _unvoiced(self, result: DecodingResult) -> bool:
        return self.no_speech_threshold is not None and result.no_speech_prob > self.no_speech_threshold
