"""``sensorium transcribe --stream``: text while somebody speaks."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median, quantiles
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from audio.stream import Live, Update
    from audio.transcribe import Transcriber
    from core.data.pcm import Pcm

__all__ = ["Screen", "listen_to"]

SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")


def listen_to(source: str, load: Callable[[], "Transcriber"], pcm: "Pcm", live: "Live") -> None:
    """Print what is said as it is said: ``-`` is standard input, ``mic`` the microphone.

    It ends with the source, or at the first Ctrl-C, with all that was heard.

    Raises InputError for another source, and when it can't be heard.
    """
    from audio.stream import listen
    from core.data.live import Latest

    blocks = _blocks(source, pcm)
    transcriber = load()  # before anything is heard, lest it wait
    screen, late = Screen(), list[float]()
    latest = Latest(blocks)
    with _until_interrupted(latest.close):
        for update in listen(transcriber, latest, live):
            screen.show(update)
            late += update.delays
    screen.end()
    if sys.stderr.isatty():
        print(_delays(late), file=sys.stderr)


def _delays(seconds: list[float]) -> str:
    """One line about how long words took to settle."""
    if len(seconds) < 2:
        return "nothing was said"
    late, last = quantiles(seconds, n=20)[-1], max(seconds)
    return f"words were settled {median(seconds):.1f} s after their end (median; 95 %: {late:.1f}, all: {last:.1f})"


class Screen:
    """Settled text, a sentence a line; on a terminal followed by what may still change."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.terminal = self.out.isatty()
        self.line = ""  # that is being written

    def show(self, update: "Update") -> None:
        """Write what is new."""
        if self.terminal:
            self.out.write("\r\x1b[K")  # the line is written anew
        for word in update.settled:
            self._add(word.text)
        if self.terminal:
            room = shutil.get_terminal_size().columns - 1 - len(self.line)
            self.out.write(f"{self.line}\x1b[2m{update.partial[: max(room, 0)]}\x1b[0m")
        self.out.flush()

    def end(self) -> None:
        """End the last line."""
        if self.terminal:
            self.out.write(f"\r\x1b[K{self.line}")
        if self.line:
            self.out.write("\n")
        self.line = ""
        self.out.flush()

    def _add(self, text: str) -> None:
        if self.terminal and len(self.line) + len(text) >= shutil.get_terminal_size().columns:
            self.out.write(f"{self.line}\n")
            self.line = ""
        text = text if self.line else text.lstrip()
        self.line += text
        if not self.terminal:
            self.out.write(text)
        if text.rstrip().endswith(SENTENCE_ENDS):
            self.out.write(f"{self.line}\n" if self.terminal else "\n")
            self.line = ""


def _blocks(source: str, pcm: "Pcm") -> Iterable["Tensor"]:
    """Samples at 16 kHz as they come."""
    if source == "mic":
        from sensorium.microphone import microphone

        return microphone()
    if source != "-":
        raise InputError(f"--stream hears - (standard input) or mic (the microphone), not {source}")
    if sys.stdin.isatty():
        raise InputError("--stream - hears standard input: pipe samples into it, or use --stream mic")
    return _piped(pcm)


def _piped(pcm: "Pcm") -> Iterator["Tensor"]:
    from core.data.audio import resampled
    from core.data.pcm import pcm_blocks

    # past the buffer of sys.stdin, whose lock a thread that waits would hold when the program ends
    found = pcm_blocks(partial(os.read, sys.stdin.fileno()), pcm)
    first = next(found, None)
    if first is None:
        return
    block, rate = first

    def all_blocks() -> Iterator["Tensor"]:
        yield block
        for more, _ in found:
            yield more

    yield from resampled(all_blocks(), rate, 16_000)


@contextmanager
def _until_interrupted(end: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `end`, the second one interrupts."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        end()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
