"""The work behind ``sensorium transcribe``: recordings are opened, heard several at once, and written one by one."""

import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from core.errors import InputError
from sensorium.recordings import STDIN
from sensorium.transcripts import Job, Output

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress

    from audio.transcribe import Transcriber, Transcription
    from core.data.audio import Recording

__all__ = ["run"]

LONG = 30.0  # seconds of audio from which on a progress bar is worth its line

Load = Callable[[], "Transcriber"]


def run(jobs: Sequence[Job], load: Load, output: Output, longest: float, overwrite: bool = False) -> tuple[int, int]:
    """Transcribe what isn't complete yet, and name what can't be read.

    Args:
        jobs: of `output`.
        load: makes the transcriber, which may take a download: called when a recording was found that can be opened.
        output: of the transcripts.
        longest: seconds that a recording may last.
        overwrite: also what is complete, where there are several.

    Returns how many recordings could not be read, of how many that were asked for.

    Raises:
        InputError: when the only recording can't be read.
    """
    if len(jobs) == 1:
        _one(jobs[0], load, output, longest)
        return 0, 1
    left = [job for job in jobs if overwrite or not job.complete]
    if len(left) < len(jobs):
        done = len(jobs) - len(left)
        print(f"{done} of {len(jobs)} recordings are done already: --overwrite repeats them", file=sys.stderr)
    return (_Several(left, output, longest).run(load) if left else 0), len(jobs)


def _one(job: Job, load: Load, output: Output, longest: float) -> None:
    """One recording, under a bar of its seconds; its text is printed as it comes."""
    recording = _opened(job.source, longest)
    work = load().start(recording)
    with _progress(hidden=work.duration <= LONG) as progress:
        task = progress.add_task(job.source.name, total=work.duration or None)
        for window in work:
            for segment in window.segments if output.prints_text else ():
                print(segment.text.strip(), flush=True)
            progress.update(task, completed=window.position, total=work.duration or None)
    if not output.prints_text:
        output.write(job, work.transcript)


class _Several:
    """Several recordings, under a bar of their bytes."""

    def __init__(self, jobs: Sequence[Job], output: Output, longest: float) -> None:
        self.jobs = jobs
        self.output = output
        self.longest = longest
        self.opened: dict[int, Job] = {}  # by the recording's id
        self.sizes = {job.source: job.source.stat().st_size if job.source.is_file() else 1 for job in jobs}
        self.failures = 0

    def run(self, load: Load) -> int:
        """Return how many could not be read."""
        recordings = self._recordings()
        first = next(recordings, None)
        if first is None:
            return self.failures
        transcriber = load()
        with _progress(hidden=False) as progress:
            task = progress.add_task(f"{len(self.jobs)} recordings", total=sum(self.sizes.values()))
            done = 0.0

            def show(begun: "Iterable[Transcription]") -> None:
                progress.update(task, completed=done + sum(map(self._bytes, begun)))

            for work in transcriber.each(itertools.chain([first], recordings), show):
                done += self.sizes[self._job(work).source]
                self._finish(self._job(work), work)
        return self.failures

    def _recordings(self) -> "Iterator[Recording]":
        """Those that can be opened; the others are named."""
        for job in self.jobs:
            try:
                recording = _opened(job.source, self.longest)
            except (InputError, OSError) as error:
                self._fail(error)
            else:
                self.opened[id(recording)] = job
                yield recording

    def _job(self, work: "Transcription") -> Job:
        return self.opened[id(work.audio)]

    def _bytes(self, work: "Transcription") -> float:
        """About how much of a file is done."""
        return self.sizes[self._job(work).source] * min(1.0, work.position / work.duration if work.duration else 0.0)

    def _finish(self, job: Job, work: "Transcription") -> None:
        if work.error is not None:
            self._fail(work.error)
            return
        if not job.places:
            print(f"==> {job.source} <==", flush=True)
        self.output.write(job, work.transcript)

    def _fail(self, error: Exception) -> None:
        print(f"error: {error}", file=sys.stderr)
        self.failures += 1


def _opened(path: "Path", longest: float) -> "Recording":
    from core.data.audio import Recording

    if path != STDIN:
        return Recording(path, longest=longest)
    spool = tempfile.TemporaryFile()  # noqa: SIM115  (it is read as long as the recording lives)
    shutil.copyfileobj(sys.stdin.buffer, spool)
    return Recording(spool, longest=longest, name="standard input")


def _progress(hidden: bool) -> "Progress":
    """A bar on stderr, with the time that is left; silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)  # standard output belongs to the text
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    # On one terminal, rich prints the text above its bar; text that goes to a file must not pass through it.
    return Progress(
        *columns,
        console=console,
        transient=True,
        disable=hidden or not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
    )
