"""Whisper's decoding of one 30 s window: which tokens may follow which, and what the result says of itself.

The loop is `core.generate`'s. Source of the rules: openai/whisper ``whisper/decoding.py``.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audio.tokenizer import Task, Tokenizer
from audio.whisper import Whisper
from core.generate import Hypothesis, Rule, Suppress, SuppressAtBegin, generate

__all__ = ["Decoder", "DecodingResult", "TimestampRules", "compression_ratio", "whisper_rules"]

LATEST_START = 50  # timestamp steps of 20 ms: a window's first segment begins within its first second


@dataclass(frozen=True)
class DecodingResult:
    """What was heard in one window."""

    tokens: list[int]  # with timestamps, without the prompt and the end token
    text: str
    language: str
    avg_logprob: float  # natural logarithm, mean over the tokens and the end token
    no_speech_prob: float  # that nobody speaks, judged before any text
    compression_ratio: float  # of the text by zlib: above 2.4 it repeats itself


class TimestampRules:
    """Timestamps open the transcript, come in pairs and never go back; text yields when they are likelier in sum.

    A `Rule` of `core.generate` for the vocabulary of `tokenizer`. The first timestamp is at most `latest_start` steps
    of 20 ms.
    """

    def __init__(self, tokenizer: Tokenizer, latest_start: int = LATEST_START) -> None:
        self.begin = tokenizer.timestamp_begin
        self.eot = tokenizer.eot
        self.no_timestamps = tokenizer.no_timestamps
        self.latest_start = latest_start

    def __call__(self, logits: Tensor, tokens: Tensor) -> None:
        text, times = logits[:, : self.begin], logits[:, self.begin :]  # views: (B, text), (B, timestamps)
        logits[:, self.no_timestamps] = -torch.inf
        if tokens.shape[1] == 0:
            text.fill_(-torch.inf)
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


def whisper_rules(tokenizer: Tokenizer) -> list[Rule]:
    """OpenAI's default rules: no blank start, no annotations, no control tokens, orderly timestamps."""
    control = [tokenizer.sot, tokenizer.sot_prev, tokenizer.sot_lm, tokenizer.no_speech]
    control += [tokenizer.special("transcribe"), tokenizer.special("translate")]
    return [
        SuppressAtBegin([*tokenizer.encode(" "), tokenizer.eot]),
        Suppress([*tokenizer.non_speech_tokens, *control]),
        TimestampRules(tokenizer),
    ]


class Decoder:
    """Turns encoded windows into text, by greedy search.

    `rules` default to `whisper_rules(tokenizer)`.
    """

    def __init__(self, model: Whisper, tokenizer: Tokenizer, rules: Sequence[Rule] | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.rules = whisper_rules(tokenizer) if rules is None else list(rules)
        self.context = model.config.text_context

    @torch.inference_mode()
    def encode(self, mel: Tensor) -> Tensor:
        """Log-mel windows (B, mels, frames), on any device, to the audio (B, S, D) that `__call__` takes."""
        weight = next(self.model.parameters())
        return self.model.encode(mel.to(weight.device, weight.dtype))

    def __call__(
        self, audio: Tensor, language: str = "en", task: Task = "transcribe", prompt: Sequence[int] = ()
    ) -> list[DecodingResult]:
        """Decode each window of `audio` (B, S, D).

        `prompt` is what was said before, as text tokens; of a long one the end counts. Raises InputError for a
        language or task that the model doesn't know.
        """
        start = self.tokenizer.sot_sequence(language, task)
        before = self._before(prompt)
        tokens = torch.tensor([*before, *start], device=audio.device).expand(audio.shape[0], -1)
        step = _WhisperStep(self.model, audio, len(before))
        # The last token is chosen but never fed back, so it may lie one beyond the positions.
        limit = min(self.context // 2, self.context + 1 - tokens.shape[1])
        hypotheses = generate(step, tokens, stop=self.tokenizer.eot, limit=limit, rules=self.rules)
        silence = step.probability_after_sot(self.tokenizer.no_speech)
        return [self._result(hyp, prob, language) for hyp, prob in zip(hypotheses, silence, strict=True)]

    @torch.inference_mode()
    def detect_language(self, audio: Tensor) -> list[dict[str, float]]:
        """How likely each language is in each window of `audio` (B, S, D): code -> probability, likeliest first.

        An English-only model answers English.
        """
        if not self.tokenizer.multilingual:
            return [{"en": 1.0} for _ in audio]
        sot = torch.full((audio.shape[0], 1), self.tokenizer.sot, device=audio.device)
        logits = self.model.decode(sot, audio).x[:, -1].float()  # (B, V)
        codes = list(self.tokenizer.language_tokens)
        ids = torch.tensor(list(self.tokenizer.language_tokens.values()), device=audio.device)
        rows = logits[:, ids].softmax(dim=-1).tolist()
        return [dict(sorted(zip(codes, row, strict=True), key=lambda pair: -pair[1])) for row in rows]

    def _before(self, prompt: Sequence[int]) -> list[int]:
        if not prompt:
            return []
        return [self.tokenizer.sot_prev, *prompt[-(self.context // 2 - 1) :]]

    def _result(self, hypothesis: Hypothesis, no_speech_prob: float, language: str) -> DecodingResult:
        text = self.tokenizer.decode(hypothesis.tokens).strip()
        return DecodingResult(
            tokens=hypothesis.tokens,
            text=text,
            language=language,
            avg_logprob=hypothesis.logprob / (len(hypothesis.tokens) + 1),
            no_speech_prob=no_speech_prob,
            compression_ratio=compression_ratio(text),
        )


class _WhisperStep:
    """The text decoder over encoded windows, as `core.generate` calls it; remembers what it predicted after `sot`."""

    def __init__(self, model: Whisper, audio: Tensor, sot_index: int) -> None:
        self.model = model
        self.audio = audio
        self.sot_index = sot_index
        self.cache = model.new_cache()
        self.after_sot: Tensor | None = None  # (B, V)

    def __call__(self, tokens: Tensor) -> Tensor:
        logits = self.model.decode(tokens, self.audio, self.cache).x
        if self.after_sot is None:
            self.after_sot = logits[:, self.sot_index].float().softmax(dim=-1)
        return logits

    def probability_after_sot(self, token: int) -> list[float]:
        """How likely `token` was, in each row, right after `sot`."""
        assert self.after_sot is not None, "generate() has not called this step"
        return self.after_sot[:, token].tolist()


def compression_ratio(text: str) -> float:
    """How much zlib shortens `text`: its bytes by the compressed bytes. Loops of a model compress well."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
