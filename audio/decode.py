"""Whisper's decoding of one 30 s window: what is fed, which search finds the text, what the result says of itself.

The loops are `core.generate`'s, the rules those of `audio.writing`. Source: openai/whisper ``whisper/decoding.py``.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from audio.draft import Draft
from audio.silence import Silence
from audio.tokenizer import Task, Tokenizer
from audio.whisper import Whisper
from audio.writing import Writing, whisper_rules
from core.data.order import keys, uniforms
from core.errors import InputError
from core.generate import Drawn, FirstFinished, Hypothesis, Rejection, Rule, beam_search, generate, speculate
from core.nn import Ctx, Memory

__all__ = ["Decoder", "DecodingResult", "Search", "compression_ratio"]


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
    logprobs: tuple[float, ...] = ()  # of each of the tokens, natural logarithms


class Decoder:
    """Turns encoded windows into text.

    Args:
        model, tokenizer: that belong together.
        rules: by default those of `writing`.
        writing: what the text may be.
        draft: tries tokens in advance where no beams are kept: the same text, sooner.
        silence: how much of the silence after a recording is encoded; by default all.

    Raises:
        InputError: for a draft of another vocabulary, and tokens to be suppressed that there are none of.
    """

    def __init__(
        self,
        model: Whisper,
        tokenizer: Tokenizer,
        rules: Sequence[Rule] | None = None,
        *,
        writing: Writing = Writing(),
        draft: Draft | None = None,
        silence: Silence = Silence(one_of=1),
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.rules = whisper_rules(tokenizer, writing) if rules is None else list(rules)
        self.writing = writing
        self.context = model.config.text_context
        hotwords = (writing.hotwords or "").strip()
        self.hotwords = tokenizer.encode(" " + hotwords) if hotwords else []
        self.silence = silence
        self.draft = draft
        if draft is not None:
            draft.check(model)
        self.one_encoder = draft is None or draft.hears_like(model)

    @torch.inference_mode()
    def encode(self, mel: Tensor, frames: Sequence[int] | None = None) -> Tensor:
        """Log-mel windows (B, mels, T), on any device, to the audio (B, S, D) that `__call__` takes.

        What a draft with an encoder of its own hears lies behind what the model hears, along D. `frames` of each window
        hold audio, silence follows them; by default all.
        """
        frames = [mel.shape[-1]] * len(mel) if frames is None else frames
        models = [self.model] if self.draft is None or self.one_encoder else [self.model, self.draft.model]
        weights = [next(model.parameters()) for model in models]
        heard = [
            self.silence.encode(model, mel.to(weight.device, weight.dtype), frames)
            for model, weight in zip(models, weights, strict=True)
        ]
        own, *others = heard
        return torch.cat([own, *(part.to(own.device, own.dtype) for part in others)], -1) if others else own

    def heard(self, audio: Tensor) -> Tensor:
        """Of `audio` (B, S, D) of :meth:`encode`, what the model itself hears."""
        return audio if self.one_encoder else _part(audio, 0, self.model)

    def _drafts(self, audio: Tensor, sot_index: int) -> "_Drafts | None":
        if self.draft is None:
            return None
        model = self.draft.model
        heard = audio if self.one_encoder else _part(audio, self.model.config.audio_dim, model)
        return _Drafts(_WhisperStep(model, heard, sot_index), self.draft.ahead)

    def __call__(
        self,
        audio: Tensor,
        language: str | Sequence[str] = "en",
        task: Task = "transcribe",
        prompt: Sequence[int] = (),
        search: Search = Search(),
        names: Sequence[int] | None = None,
        prefix: Sequence[int] = (),
    ) -> list[DecodingResult]:
        """Decode each window of `audio` (B, S, D).

        Args:
            audio: of :meth:`encode`.
            language: that is spoken, in all or in each.
            task: what is written.
            prompt: what was said before, as text tokens; of a long one the end counts.
            search: greedily by default.
            names: a number for each window, from which its draws follow; by default its row.
            prefix: how the text begins, as text tokens; it is not part of the result.

        Raises:
            InputError: for a language or task that the model doesn't know, a prefix that leaves no room, and beams
                where there is a draft.
        """
        languages = [language] * len(audio) if isinstance(language, str) else list(language)
        before = self._before(prompt, prefix)
        rows = [[*before, *self._start(code, task, prefix)] for code in languages]
        tokens = torch.tensor(rows, device=audio.device)
        # The last token is chosen but never fed back, so it may lie one beyond the positions.
        limit = min(self.writing.max_new_tokens or self.context // 2, self.context + 1 - tokens.shape[1])
        if limit < 1:
            raise InputError(f"a prefix of {len(prefix)} tokens leaves no room for text: use a shorter one")
        step = _WhisperStep(self.model, self.heard(audio), len(before))
        drafts = self._drafts(audio, len(before))
        if search.temperature == 0:
            found = self._likeliest(step, drafts, tokens, limit, search)
        else:
            found = self._drawn(step, drafts, tokens, limit, search, range(len(audio)) if names is None else names)
        silence = step.probability_after_sot(self.tokenizer.no_speech)
        each = len(silence) // len(found)  # rows of one window
        return [
            self._result(hypothesis, prob, code, search.temperature)
            for hypothesis, prob, code in zip(found, silence[::each], languages, strict=True)
        ]

    def _likeliest(
        self, step: "_WhisperStep", drafts: "_Drafts | None", tokens: Tensor, limit: int, search: Search
    ) -> list[Hypothesis]:
        stop = self.tokenizer.eot
        if search.beams == 1 and drafts is None:
            return generate(step, tokens, stop=stop, limit=limit, rules=self.rules, keep=step.reorder)
        if drafts is not None:
            if search.beams > 1:
                raise InputError(f"a draft model can't help to keep {search.beams} beams: use 1, or no draft")
            return speculate(step, drafts.step, tokens, stop=stop, limit=limit, ahead=drafts.ahead, rules=self.rules)
        finish = partial(FirstFinished, patience=search.patience, length_penalty=search.length_penalty)
        return beam_search(step, tokens, stop=stop, limit=limit, beams=search.beams, rules=self.rules, finish=finish)

    def _drawn(
        self,
        step: "_WhisperStep",
        drafts: "_Drafts | None",
        tokens: Tensor,
        limit: int,
        search: Search,
        names: Sequence[int],
    ) -> list[Hypothesis]:
        """The likeliest, for its length, of some texts that are drawn for each window."""
        each, stop, temperature = search.best_of, self.tokenizer.eot, search.temperature
        texts = np.repeat(np.asarray(names, np.int64), each) * each + np.tile(np.arange(each), len(names))
        drawn_by = keys(search.seed, round(1000 * temperature), texts)

        def draws(number: int) -> Tensor:
            return torch.from_numpy(uniforms(drawn_by, number + 1)[:, -1])

        rows = tokens.repeat_interleave(each, 0)
        step.repeat(each)
        if drafts is None:
            choose = Drawn(draws, temperature)
            found = generate(step, rows, stop=stop, limit=limit, rules=self.rules, choose=choose, keep=step.reorder)
        else:
            drafts.step.repeat(each)
            likes, ahead, rules = Rejection(draws, temperature), drafts.ahead, self.rules
            found = speculate(step, drafts.step, rows, stop=stop, limit=limit, ahead=ahead, rules=rules, judge=likes)
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
        logits = self.model.decode(sot, self.heard(audio)).x[:, -1].float()  # (B, V)
        codes = list(self.tokenizer.language_tokens)
        ids = torch.tensor(list(self.tokenizer.language_tokens.values()), device=audio.device)
        rows = logits[:, ids].softmax(dim=-1).tolist()
        return [dict(sorted(zip(codes, row, strict=True), key=lambda pair: -pair[1])) for row in rows]

    def _before(self, prompt: Sequence[int], prefix: Sequence[int]) -> list[int]:
        """What comes before `sot`: hotwords, if nothing says how the text begins, and as much of the prompt as fits."""
        room = self.context // 2 - 1
        hotwords = [] if prefix else self.hotwords[:room]
        said = prompt[-(room - len(hotwords)) :] if len(hotwords) < room else []
        return [self.tokenizer.sot_prev, *hotwords, *said] if hotwords or said else []

    def _start(self, language: str, task: Task, prefix: Sequence[int]) -> list[int]:
        start = list(self.tokenizer.sot_sequence(language, task))
        if not self.writing.timestamps:
            start.append(self.tokenizer.no_timestamps)
        room = self.context // 2 - (self.writing.max_new_tokens or self.context // 2)
        return [*start, *(prefix[-room:] if room > 0 else prefix)]

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
            logprobs=tuple(hypothesis.logprobs[: len(hypothesis.tokens)]),
        )


class _WhisperStep:
    """The text decoder over encoded windows, as `core.generate` calls it; remembers what it predicted after `sot`."""

    def __init__(self, model: Whisper, audio: Tensor, sot_index: int) -> None:
        self.model = model
        self.audio: Tensor | None = audio  # until the first call, from which on the cache has it
        self.sot_index = sot_index
        self.cache = model.new_cache()
        self.rows = 0  # that the cache holds
        self.after_sot: Tensor | None = None  # (B, V)

    def __call__(self, tokens: Tensor) -> Tensor:
        decoder = self.model.decoder
        memory = None if self.audio is None else Memory(self.audio)
        states = decoder.states(tokens, Ctx(memory=memory, cache=self.cache)).x
        self.rows, self.audio = len(tokens), None
        if self.after_sot is not None:
            return decoder.logits(states)
        logits = decoder.logits(states[:, self.sot_index :])  # nobody asks what follows the text before
        self.after_sot = logits[:, 0].float().softmax(dim=-1)
        return logits

    def repeat(self, times: int) -> None:
        """Decode each window that often, before the first call."""
        assert self.audio is not None
        self.audio = self.audio.repeat_interleave(times, 0)

    def rewind(self, length: int) -> None:
        """Forget all but the first tokens that were fed."""
        self.cache.truncate(length)

    def reorder(self, rows: Tensor) -> None:
        """Go on with other rows: beams stay with their window."""
        if len(rows) == self.rows:
            self.cache.swap(rows)
        else:
            self.cache.reorder(rows)
        self.rows = len(rows)

    def probability_after_sot(self, token: int) -> list[float]:
        """How likely `token` was, in each row, right after `sot`."""
        assert self.after_sot is not None, "generate() has not called this step"
        return self.after_sot[:, token].tolist()


class _Drafts(NamedTuple):
    """A draft model at work."""

    step: _WhisperStep
    ahead: int


def _part(audio: Tensor, begin: int, model: Whisper) -> Tensor:
    """What `model` hears: from `begin` on in (B, S, D of several)."""
    return audio[..., begin : begin + model.config.audio_dim].contiguous()


def compression_ratio(text: str) -> float:
    """How much zlib shortens `text`: its bytes by the compressed bytes. Loops of a model compress well."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
