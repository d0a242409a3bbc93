"""Whisper's decoding of one 30 s window: which tokens may follow which, and what the result says of itself.

The loop is `core.generate`'s. Source of the rules: openai/whisper ``whisper/decoding.py``.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from audio.tokenizer import Task, Tokenizer
from audio.whisper import Whisper
from core.data.order import keys, uniforms
from core.errors import InputError
from core.generate import Drawn, FirstFinished, Hypothesis, Rule, Suppress, SuppressAtBegin, beam_search, generate

__all__ = ["Decoder", "DecodingResult", "Search", "TimestampRules", "compression_ratio", "whisper_rules"]

LATEST_START = 50  # timestamp steps of 20 ms: a window's first segment begins within its first second


@dataclass(frozen=True)
class Search:
    """How the text of a window is looked for.

    Attributes:
        beams: beginnings that are kept at temperature 0; 1 is greedy.
        patience, length_penalty: of the beams; see :class:`core.generate.FirstFinished`.
        temperature: above 0 the tokens are drawn.
        best_of: texts that are drawn above temperature 0; the likeliest is taken.
        seed: of the draws. They follow from it and from the window, not from what else is decoded.
    """

    beams: int = 1
    patience: float = 1.0
    length_penalty: float | None = None
    temperature: float = 0.0
    best_of: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.beams, self.best_of) < 1 or self.temperature < 0:
            raise InputError(
                f"beams {self.beams} and best_of {self.best_of} must be at least 1, temperature {self.temperature} >= 0"
            )


@dataclass(frozen=True)
class DecodingResult:
    """What was heard in one window."""

    tokens: list[int]  # with timestamps, without the prompt and the end token
    text: str
    language: str
    avg_logprob: float  # natural logarithm, mean over the tokens and the end token
    no_speech_prob: float  # that nobody speaks, judged before any text
    compression_ratio: float  # of the text by zlib: above 2.4 it repeats itself
    temperature: float = 0.0  # that it was found with


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
    """Turns encoded windows into text.

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
        self,
        audio: Tensor,
        language: str = "en",
        task: Task = "transcribe",
        prompt: Sequence[int] = (),
        search: Search = Search(),
        names: Sequence[int] | None = None,
    ) -> list[DecodingResult]:
        """Decode each window of `audio` (B, S, D).

        Args:
            audio: of :meth:`encode`.
            language, task: what is spoken, and what is written.
            prompt: what was said before, as text tokens; of a long one the end counts.
            search: greedily by default.
            names: a number for each window, from which its draws follow; by default its row.

        Raises:
            InputError: for a language or task that the model doesn't know.
        """
        start = self.tokenizer.sot_sequence(language, task)
        before = self._before(prompt)
        tokens = torch.tensor([*before, *start], device=audio.device).expand(audio.shape[0], -1)
        # The last token is chosen but never fed back, so it may lie one beyond the positions.
        limit = min(self.context // 2, self.context + 1 - tokens.shape[1])
        step = _WhisperStep(self.model, audio, len(before))
        if search.temperature == 0:
            found = self._likeliest(step, tokens, limit, search)
        else:
            found = self._drawn(step, tokens, limit, search, range(len(audio)) if names is None else names)
        silence = step.probability_after_sot(self.tokenizer.no_speech)
        each = len(silence) // len(found)  # rows of one window
        return [
            self._result(hypothesis, prob, language, search.temperature)
            for hypothesis, prob in zip(found, silence[::each], strict=True)
        ]

    def _likeliest(self, step: "_WhisperStep", tokens: Tensor, limit: int, search: Search) -> list[Hypothesis]:
        stop = self.tokenizer.eot
        if search.beams == 1:
            return generate(step, tokens, stop=stop, limit=limit, rules=self.rules)
        finish = partial(FirstFinished, patience=search.patience, length_penalty=search.length_penalty)
        return beam_search(step, tokens, stop=stop, limit=limit, beams=search.beams, rules=self.rules, finish=finish)

    def _drawn(
        self, step: "_WhisperStep", tokens: Tensor, limit: int, search: Search, names: Sequence[int]
    ) -> list[Hypothesis]:
        """The likeliest, for its length, of some texts that are drawn for each window."""
        each = search.best_of
        texts = np.repeat(np.asarray(names, np.int64), each) * each + np.tile(np.arange(each), len(names))
        drawn_by = keys(search.seed, round(1000 * search.temperature), texts)
        step.repeat(each)
        choose = Drawn(lambda n: torch.from_numpy(uniforms(drawn_by, n + 1)[:, -1]), search.temperature)
        rows = tokens.repeat_interleave(each, 0)
        found = generate(step, rows, stop=self.tokenizer.eot, limit=limit, rules=self.rules, choose=choose)
        judge = FirstFinished(each, length_penalty=search.length_penalty)
        return [judge.better(found[n : n + each]) for n in range(0, len(found), each)]

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

    def _result(
        self, hypothesis: Hypothesis, no_speech_prob: float, language: str, temperature: float
    ) -> DecodingResult:
        text = self.tokenizer.decode(hypothesis.tokens).strip()
        return DecodingResult(
            tokens=hypothesis.tokens,
            text=text,
            language=language,
            avg_logprob=hypothesis.logprob / (len(hypothesis.tokens) + 1),
            no_speech_prob=no_speech_prob,
            compression_ratio=compression_ratio(text),
            temperature=temperature,
        )


class _WhisperStep:
    """The text decoder over encoded windows, as `core.generate` calls it; remembers what it predicted after `sot`."""

    def __init__(self, model: Whisper, audio: Tensor, sot_index: int) -> None:
        self.model = model
        self.audio = audio
        self.sot_index = sot_index
        self.cache = model.new_cache()
        self.rows = 0  # that the cache holds
        self.after_sot: Tensor | None = None  # (B, V)

    def __call__(self, tokens: Tensor) -> Tensor:
        logits = self.model.decode(tokens, self.audio, self.cache).x
        self.rows = len(tokens)
        if self.after_sot is None:
            self.after_sot = logits[:, self.sot_index].float().softmax(dim=-1)
        return logits

    def repeat(self, times: int) -> None:
        """Decode each window that often, before the first call."""
        self.audio = self.audio.repeat_interleave(times, 0)

    def reorder(self, rows: Tensor) -> None:
        """Go on with other rows: beams stay with their window."""
        if len(rows) == self.rows:
            self.cache.swap(rows)
        else:
            self.cache.reorder(rows)
            self.audio = self.audio[rows]
        self.rows = len(rows)

    def probability_after_sot(self, token: int) -> list[float]:
        """How likely `token` was, in each row, right after `sot`."""
        assert self.after_sot is not None, "generate() has not called this step"
        return self.after_sot[:, token].tolist()


def compression_ratio(text: str) -> float:
    """How much zlib shortens `text`: its bytes by the compressed bytes. Loops of a model compress well."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
