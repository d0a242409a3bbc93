"""``sensorium transcribe``: speech to text and subtitles."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from audio.transcribe import Transcriber, Transcript

__all__ = ["transcribe"]

Format = Literal["txt", "srt", "vtt", "json"]

LONG = 30.0  # seconds of audio from which on a progress bar is worth its lines


def transcribe(
    files: Annotated[list[Path], typer.Argument(help="recordings: wav, flac, ogg, mp3; others with the extra 'media'")],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="name (tiny.en ... large-v3, turbo, distil-large-v3), folder, or owner/name"
        ),
    ] = "tiny.en",
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="of the speech, such as en or german; detected if not given")
    ] = None,
    format: Annotated[
        Format | None, typer.Option("--format", "-f", help="of the result; by default as --output ends, else txt")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file, or folder for several; by default the text is printed")
    ] = None,
) -> None:
    """Transcribe recordings of any length.

    Examples:

    sensorium transcribe talk.mp3

    sensorium transcribe film.mkv --model turbo --language de --output film.srt

    sensorium transcribe *.wav --format json --output transcripts/
    """
    from audio.languages import language_code

    code = None if language is None else language_code(language)
    format = format or _format_of(output)
    places = _places(files, format, output)
    failures = _transcribe_each(files, places, format, _lazily(model, code))
    if failures:
        raise typer.Exit(2 if failures == len(files) else 1)


def _format_of(output: Path | None) -> Format:
    """The format that a file's name ends in; txt for a folder and for no file at all."""
    endings: dict[str, Format] = {".txt": "txt", ".srt": "srt", ".vtt": "vtt", ".json": "json"}
    return endings.get(output.suffix.lower(), "txt") if output else "txt"


def _places(files: list[Path], format: Format, output: Path | None) -> list[Path | None]:
    """Where each file's result goes; None is standard output."""
    if output is None:
        if len(files) > 1 and format != "txt":
            raise InputError(f"several {format} results can't share the standard output: give a folder with --output")
        return [None] * len(files)
    single = len(files) == 1 and not output.is_dir() and output.suffix
    if single:
        return [output]
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: several recordings need a folder")
    places = [output / f"{file.stem}.{format}" for file in files]
    twins = [file for file, place in zip(files, places, strict=True) if places.count(place) > 1]
    if twins:
        raise InputError(
            f"{twins[0]} and {twins[1]} would both be written to {output / twins[0].stem}.{format}: rename one"
        )
    return list(places)


def _lazily(model: str, language: str | None) -> Callable[[], "Transcriber"]:
    """A function that loads the model when it's first called: a file that can't be read is told before any download."""
    from functools import cache

    @cache
    def load() -> "Transcriber":
        from audio.checkpoints import find_whisper
        from audio.transcribe import Settings, Transcriber
        from audio.weights import load_whisper

        whisper, _ = load_whisper(find_whisper(model))
        return Transcriber(whisper, settings=Settings(language=language))

    return load


def _transcribe_each(
    files: list[Path], places: list[Path | None], format: Format, load: Callable[[], "Transcriber"]
) -> int:
    """Transcribe every file that can be read, name those that can't, and return how many those were.

    Raises InputError when the only file can't be read.
    """
    from core.data.audio import read_audio

    failures = 0
    for file, place in zip(files, places, strict=True):
        try:
            waveform = read_audio(file)
        except (InputError, OSError) as error:
            if len(files) == 1:
                raise
            print(f"error: {error}", file=sys.stderr)
            failures += 1
            continue
        if len(files) > 1 and place is None:
            print(f"==> {file} <==", flush=True)
        _transcribe_one(file, waveform, place, format, load())
    return failures


def _transcribe_one(
    file: Path, waveform: "Tensor", place: Path | None, format: Format, transcriber: "Transcriber"
) -> None:
    from audio.subtitles import FORMATS

    transcript = _listen(file.name, waveform, transcriber, show=place is None and format == "txt")
    if place is not None:
        from core.weights.files import replacing

        with replacing(place) as draft:
            draft.write_text(FORMATS[format](transcript), encoding="utf-8")
    elif format != "txt":
        sys.stdout.write(FORMATS[format](transcript))


def _listen(name: str, waveform: "Tensor", transcriber: "Transcriber", show: bool) -> "Transcript":
    """Transcribe under a progress bar; with `show`, print the text of each window as it comes."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    job = transcriber.start(waveform)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)  # standard output belongs to the text
    hidden = job.duration <= LONG or not console.is_terminal
    # On one terminal, rich prints the text above its bar; text that goes to a file must not pass through it.
    with Progress(
        *columns, console=console, transient=True, disable=hidden, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        task = progress.add_task(name, total=job.duration)
        for window in job:
            for segment in window.segments if show else ():
                print(segment.text.strip(), flush=True)
            progress.update(task, completed=window.position)
    return job.transcript
