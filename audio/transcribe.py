"""Transcribe recordings of any length.

Where somebody speaks, windows are cut in pauses and heard several at once. Or, as openai/whisper does it
(``whisper/transcribe.py``): 30 s windows one after the other, each starting where the last spoken segment ended; see
:data:`audio.settings.OPENAI`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from audio.align import Aligner
from audio.decode import Decoder
from audio.draft import Draft
from audio.languages import language_code
from audio.listener import Listener
from audio.mel import SAMPLE_RATE, LogMel, seconds_at
from audio.passage import History, Passage, Recorded
from audio.reading import Audio, Source, passages
from audio.schedule import hear
from audio.settings import Settings
from audio.silence import Silence
from audio.tokenizer import Tokenizer
from audio.transcript import Segment, Transcript
from audio.whisper import Whisper
from core.errors import InputError

__all__ = ["Segment", "Settings", "Transcriber", "Transcript", "Transcription", "Window"]


@dataclass(frozen=True)
class Window:
    """One step of a transcription."""

    segments: tuple[Segment, ...]  # newly found; none when nobody spoke
    position: float  # seconds of the recording that are done


class Transcriber:
    """Speech to text with a Whisper model.

    ``Transcriber(model, tokenizer)("talk.mp3").text``, or, to see the text as it comes::

        for window in transcriber.start("talk.mp3"):
            print(window.position, window.segments)
    """

    def __init__(
        self,
        model: Whisper,
        tokenizer: Tokenizer | None = None,
        settings: Settings = Settings(),
        draft: Draft | None = None,
    ) -> None:
        """`draft` tries tokens in advance; see :class:`audio.decode.Decoder`."""
        self.model = model.eval()
        self.tokenizer = tokenizer or Tokenizer.for_vocab(model.config.vocab)
        self.settings = settings
        silence = settings.silence if settings.speech else Silence(one_of=1)
        self.decoder = Decoder(model, self.tokenizer, writing=settings.writing, draft=draft, silence=silence)
        self.aligner = Aligner(model, self.tokenizer)
        self.log_mel = LogMel(model.config.mels)
        self.listener = Listener(self.decoder, self.aligner, settings)
        if settings.language is not None:  # a wrong one is told before any audio is read
            self.tokenizer.sot_sequence(settings.language, settings.task)

    def __call__(self, audio: Audio) -> Transcript:
        """Transcribe a file, or a waveform (samples,) at 16 kHz.

        Raises InputError when it can't be read, and for a language that the model doesn't know.
        """
        return self.start(audio).finish()

    def start(self, audio: Audio) -> "Transcription":
        """Begin to transcribe a file, or a waveform (samples,) at 16 kHz: iterate over the result for its windows.

        Raises InputError when it can't be opened.
        """
        return Transcription(self, audio)

    def each(
        self, audios: Iterable[Audio], watch: "Callable[[Iterable[Transcription]], None] | None" = None
    ) -> Iterator["Transcription"]:
        """Transcribe several recordings, windows of some of them at once: each gives what it would alone.

        Gives each in its turn, when it is done. One that turns out to be damaged has an `error`; raises InputError for
        one that can't be opened.

        Args:
            audios: files, or waveforms (samples,) at 16 kHz; opened one after the other.
            watch: is shown, after each step, those that were begun.
        """
        jobs: deque[Transcription] = deque()
        for _ in hear(self._all(audios, jobs), self.listener, self.settings.batch):
            while jobs and jobs[0].done:
                yield jobs.popleft()
            if watch is not None:
                watch(jobs)
        yield from jobs

    def _all(self, audios: Iterable[Audio], jobs: "deque[Transcription]") -> Iterator[Passage]:
        """The passages of all recordings; those that were begun are added to `jobs`."""
        for audio in audios:
            jobs.append(Transcription(self, audio))
            yield from jobs[-1].read()

    def history(self) -> History:
        """What is remembered of a recording in which nothing was heard."""
        settings, room = self.settings, self.decoder.context // 2 - 1
        initial, prefix = (
            self.tokenizer.encode(" " + text.strip()) if text and text.strip() else []
            for text in (settings.initial_prompt, settings.writing.prefix)
        )
        return History(initial, settings.carry_initial_prompt, settings.condition_on_previous_text, room, prefix)

    def detect(self, mel: Tensor) -> str:
        """The likeliest language of a window (mels, 3000)."""
        return self.listener.detect_language(self.decoder.encode(mel[None]))[0]


class Transcription:
    """One recording being transcribed.

    Iterating over it does the work, step by step, and can be interrupted and continued.

    Attributes:
        audio: that was given.
        duration: of the recording, seconds; what it says itself, or 0, as long as it isn't read to its end.
        position: seconds that are done.
        error: why it can't be read any further.
    """

    def __init__(self, transcriber: Transcriber, audio: Audio) -> None:
        self.transcriber = transcriber
        self.audio = audio
        self.source = Source(audio)
        self.duration = self.source.promised or 0.0
        self.position = 0.0
        self.error: Exception | None = None
        settings, tokenizer = transcriber.settings, transcriber.tokenizer
        spoken = settings.language or (None if tokenizer.multilingual else "en")
        self.recorded = Recorded(None if spoken is None else language_code(spoken), settings.condition_on_previous_text)
        self.segments: list[Segment] = []  # of all that was taken
        self.open: deque[Passage] = deque()  # those that were begun; the first is being heard
        self.taken = 0  # of its segments
        self.all_read = False
        self.steps: Iterator[None] | None = None

    def __iter__(self) -> Iterator[Window]:
        if self.steps is None:
            self.steps = hear(self.read(), self.transcriber.listener, self.transcriber.settings.batch)
        for _ in self.steps:
            yield Window(tuple(self._take()), self.position)
        if self.error is not None:
            raise self.error

    def finish(self) -> Transcript:
        """Do the remaining windows and return everything.

        Raises InputError when the recording can't be read to its end.
        """
        for _ in self:
            continue
        return self.transcript

    @property
    def transcript(self) -> Transcript:
        """What was found so far."""
        self._take()
        return Transcript(tuple(self.segments), self.recorded.language, self.duration)

    @property
    def done(self) -> bool:
        """Whether nothing is left to be heard."""
        self._take()
        return self.all_read and not self.open

    def read(self) -> Iterator[Passage]:
        """The passages of the recording, to be heard while more of it is read.

        An InputError ends them, and becomes the `error`.
        """
        by = self.transcriber
        window = 2 * by.model.config.audio_context  # frames
        parts = passages(self.source, self.recorded, by.settings, by.history, by.log_mel, by.detect, window)
        try:
            for passage in parts:
                self.open.append(passage)
                yield passage
            self.duration = self.source.samples / SAMPLE_RATE
        except (InputError, OSError) as error:
            self.error = error
            for passage in self.open:
                passage.seek = passage.end
        self.all_read = True

    def _take(self) -> list[Segment]:
        """The segments that are new, in order, as far as nothing before them is missing."""
        new: list[Segment] = []
        while self.open:
            passage = self.open[0]
            new += passage.segments[self.taken :]
            self.position = seconds_at(min(passage.seek, passage.end))
            self.taken = len(passage.segments)
            if not passage.done:
                break
            self.open.popleft()
            self.taken = 0
        self.segments += new
        return new
