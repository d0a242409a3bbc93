"""Transcribe speech while it is being spoken: settled text and what may still change, some seconds behind the speaker.

The audio that is not settled yet is decoded again and again as it grows (Macháček et al. 2023, arXiv:2307.14743): words
on which two looks agree are settled, and audio whose words are settled is forgotten.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from audio.agreement import Agreement
from audio.languages import language_code
from audio.mel import HOP, SAMPLE_RATE, WINDOW_SECONDS, fit_frames
from audio.transcribe import Transcriber
from audio.transcript import Word
from audio.vad import FRAME, VoiceStream
from audio.waveform import checked_waveform
from audio.words import SENTENCE_ENDS, merge_punctuation
from core.errors import InputError

__all__ = ["Live", "LiveStream", "Update", "listen"]

VOICE = 0.5  # somebody speaks where the network says so with this probability or more
BEFORE = 0.5  # seconds that are kept of a silence, before what may be said next
SHORTEST = 0.1  # seconds of audio that are worth a look
ROOM = 5.0  # seconds of a window that are left free for what comes next


@dataclass(frozen=True)
class Live:
    """How speech is followed.

    Attributes:
        step: seconds of new audio after which it is looked at.
        wait: seconds after its end by which a word is settled even if looks disagree.
        keep: seconds of audio from which on what is settled is forgotten: at the end of a sentence, or of a word.
        pause: seconds of silence after which all that was said is settled. None: silence is not listened for.
        remember: characters of settled text that the model is shown before the audio that is not settled.

    Raises:
        InputError: when they don't fit together.
    """

    step: float = 1.0
    wait: float = 8.0
    keep: float = 15.0
    pause: float | None = 0.8
    remember: int = 400

    def __post_init__(self) -> None:
        longest = WINDOW_SECONDS - ROOM
        if not SHORTEST <= self.step <= ROOM:
            raise InputError(f"a look every {self.step} s: expected {SHORTEST} to {ROOM:g}")
        if not self.step <= self.wait <= longest or not self.step <= self.keep <= longest:
            raise InputError(
                f"wait {self.wait} s and keep {self.keep} s: expected at least one step, {longest:g} at most"
            )
        if self.pause is not None and self.pause <= 0:
            raise InputError(f"a pause of {self.pause} s: expected above 0")
        if self.remember < 0:
            raise InputError(f"{self.remember} characters to remember: expected 0 or more")


@dataclass(frozen=True)
class Update:
    """What one look at the audio has changed."""

    settled: tuple[Word, ...]  # newly, in order: they won't change any more
    open: tuple[Word, ...]  # what else was heard: it replaces the `open` of the update before
    position: float  # seconds of audio heard so far
    seconds: float  # that the look took

    @property
    def text(self) -> str:
        """The newly settled words, to be put behind what was settled before as it is."""
        return "".join(word.text for word in self.settled)

    @property
    def partial(self) -> str:
        """What may change."""
        return "".join(word.text for word in self.open)

    @property
    def delays(self) -> list[float]:
        """For each settled word, the seconds from its end in the audio until it was settled.

        Of audio that comes as it is spoken: what was heard beyond the word, and the time that the look took.
        """
        return [max(0.0, self.position - word.end) + self.seconds for word in self.settled]


def listen(transcriber: Transcriber, blocks: Iterable[Tensor | np.ndarray], live: Live = Live()) -> Iterator[Update]:
    """Follow speech that comes in blocks of samples (n,) at 16 kHz in [-1, 1], of any size; nothing else is kept of it.

    A block that holds more than one step, because the last look took long, is looked at once.
    """
    stream = LiveStream(transcriber, live)
    for block in blocks:
        yield from stream.hear(block)
    yield stream.finish()


class LiveStream:
    """One recording being followed.

    Attributes:
        language: that is spoken, once it is known.
    """

    def __init__(self, transcriber: Transcriber, live: Live = Live()) -> None:
        self.transcriber = transcriber
        self.live = live
        settings = transcriber.settings
        spoken = settings.language or (None if transcriber.tokenizer.multilingual else "en")
        self.language = None if spoken is None else language_code(spoken)
        # a look is soon followed by another: one temperature does
        self.fallback = replace(settings.fallback, temperatures=settings.fallback.temperatures[:1])
        self.held = torch.zeros(0)  # audio that is not settled
        self.begin = 0  # its first sample
        self.fresh = 0  # samples of it that no look has seen
        self.agreement = Agreement()
        self.forgotten = (settings.initial_prompt or "").strip()  # the text before the audio that is held
        self.voice = None if live.pause is None else VoiceStream()
        self.spoken = 0  # the sample up to which somebody spoke
        self.judged = 0  # the sample up to which that is known

    @property
    def position(self) -> float:
        """Seconds of audio heard so far."""
        return (self.begin + len(self.held)) / SAMPLE_RATE

    def hear(self, samples: Tensor | np.ndarray) -> Iterator[Update]:
        """Take the next samples (n,) at 16 kHz, and give an update for each look that they are enough for.

        Raises InputError for what is no audio. The samples are taken as the updates are.
        """
        left = checked_waveform(samples)
        while len(left):
            room = WINDOW_SECONDS * SAMPLE_RATE - len(self.held)
            block, left = left[:room], left[room:]
            self.held = torch.cat([self.held, block])
            self.fresh += len(block)
            self._judge(block)
            if self.fresh >= self.live.step * SAMPLE_RATE:
                yield self._look()

    def finish(self) -> Update:
        """Settle the rest."""
        return self._close()

    def _look(self) -> Update:
        """Decode what is held."""
        since = perf_counter()
        if self.live.pause is not None and self.judged - self.spoken >= self.live.pause * SAMPLE_RATE:
            return self._close()
        words = self._words()
        settled = self.agreement(words, overdue=self.position - self.live.wait)
        if len(self.held) > self.live.keep * SAMPLE_RATE:
            self._forget(self._sentence_end())
        if len(self.held) > (WINDOW_SECONDS - ROOM) * SAMPLE_RATE:  # nothing was settled for long: nothing was said
            self._forget(max(self.agreement.until, self.position - self.live.wait))
        return Update(tuple(settled), tuple(self.agreement.open), self.position, perf_counter() - since)

    def _close(self) -> Update:
        """Settle all that was said, and forget its audio but for a little silence."""
        since = perf_counter()
        settled = self.agreement.close(self._words() if self._worth_a_look() else self.agreement.open)
        self._forget(max(self.position - BEFORE, self.agreement.until))
        return Update(tuple(settled), (), self.position, perf_counter() - since)

    def _worth_a_look(self) -> bool:
        """Whether there is anything new that was spoken, in what was not looked at."""
        start = self.begin + len(self.held) - self.fresh
        heard = self.voice is None or self.spoken > start
        return heard and self.fresh >= SHORTEST * SAMPLE_RATE

    @torch.inference_mode()
    def _words(self) -> list[Word]:
        """Decode all that is held, and find its words in the recording."""
        self.fresh = 0
        if self.voice is not None and self.spoken <= self.begin:
            return []
        one = self.transcriber
        settings, tokenizer = one.settings, one.tokenizer
        mel = one.log_mel(self.held, padding=WINDOW_SECONDS * SAMPLE_RATE - len(self.held))
        frames = len(self.held) // HOP
        audio = one.decoder.encode(fit_frames(mel)[None], [frames])
        if self.language is None:
            self.language = next(iter(one.decoder.detect_language(audio)[0]))
        result = self.fallback(one.decoder, audio, self.language, settings.task, self._prompt(), settings.search)[0]
        if self.fallback.silent(result):
            return []
        text = [token for token in result.tokens if token < tokenizer.eot]
        start = self.begin / SAMPLE_RATE
        timings = one.aligner(one.decoder.heard(audio), [text], [frames], self.language, settings.task)[0]
        return [
            Word(round(start + word.start, 2), round(start + word.end, 2), word.text, word.probability)
            for word in merge_punctuation(timings, settings.punctuation)
        ]

    def _prompt(self) -> list[int]:
        """What was said before the audio that is held, as tokens."""
        return self.transcriber.tokenizer.encode(" " + self.forgotten) if self.forgotten else []

    def _judge(self, block: Tensor) -> None:
        """Find out where in new audio somebody speaks."""
        if self.voice is None:
            return
        likely = self.voice(block)
        voiced = (likely >= VOICE).nonzero().flatten()
        if len(voiced):
            self.spoken = self.judged + (int(voiced[-1]) + 1) * FRAME
        self.judged += len(likely) * FRAME

    def _sentence_end(self) -> float:
        """Where the last sentence of the settled words ends, in seconds; without one, where the last word does."""
        ends = [word.end for word in self.agreement.settled if word.text.rstrip().endswith(tuple(SENTENCE_ENDS))]
        return ends[-1] if ends and ends[-1] < self.agreement.until else self.agreement.until

    def _forget(self, time: float) -> None:
        """Let go of the audio before `time`, in seconds, but not of what was said in it."""
        cut = min(max(round(time * SAMPLE_RATE) - self.begin, 0), len(self.held))
        self.begin += cut
        self.held = self.held[cut:].clone()
        self.fresh = min(self.fresh, len(self.held))
        gone = self.agreement.forget(self.begin / SAMPLE_RATE)
        if gone:
            text = self.forgotten + gone
            self.forgotten = text[max(len(text) - self.live.remember, 0) :].strip()
