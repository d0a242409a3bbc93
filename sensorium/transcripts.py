"""Where the transcripts of recordings go, and in which formats."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import InputError
from sensorium.recordings import Found

if TYPE_CHECKING:
    from audio.subtitles import Layout
    from audio.transcript import Transcript

__all__ = ["FORMATS", "Job", "Output"]

FORMATS = ("txt", "srt", "vtt", "tsv", "json", "lrc")


@dataclass(frozen=True)
class Job:
    """A recording, and the file that its transcript is written to in each format; without any it is printed."""

    source: Path
    places: dict[str, Path] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all of it is there, and no older than the recording: files appear only when they are complete."""
        places = list(self.places.values())
        if not places or not self.source.is_file() or not all(place.is_file() for place in places):
            return False
        return self.source.stat().st_mtime <= min(place.stat().st_mtime for place in places)


class Output:
    """Where transcripts go.

    Args:
        place: a file or a folder; None: standard output.
        format: of `FORMATS`, or ``all``; None: what the file's name ends in, else txt.
        layout: of subtitles.
    """

    def __init__(self, place: Path | None, format: str | None, layout: "Layout") -> None:
        ending = place.suffix.lower().lstrip(".") if place else ""
        self.place = place
        self.formats = FORMATS if format == "all" else (format or (ending if ending in FORMATS else "txt"),)
        self.layout = layout

    @property
    def prints_text(self) -> bool:
        """Whether plain text is printed."""
        return self.place is None and self.formats == ("txt",)

    def jobs(self, found: Sequence[Found]) -> list[Job]:
        """What is to be done.

        Raises InputError where results would get into each other's way.
        """
        if self.place is None:
            several = "all formats" if len(self.formats) > 1 else f"several {self.formats[0]} results"
            if len(self.formats) > 1 or (len(found) > 1 and not self.prints_text):
                raise InputError(f"{several} can't share the standard output: give a folder with --output")
            return [Job(recording.path) for recording in found]
        if len(found) == len(self.formats) == 1 and self.place.suffix and not self.place.is_dir():
            return [Job(found[0].path, {self.formats[0]: self.place})]
        if self.place.exists() and not self.place.is_dir():
            what = "several recordings need" if len(found) > 1 else "all formats need"
            raise InputError(f"{self.place} is a file: {what} a folder")
        return self._in_folder(self.place, found)

    def _in_folder(self, folder: Path, found: Sequence[Found]) -> list[Job]:
        sources: dict[Path, Path] = {}
        for path, within in found:
            stem = folder / within.with_suffix("")
            if stem in sources:
                twin = f"{stem}.{self.formats[0]}"
                raise InputError(f"{sources[stem]} and {path} would both be written to {twin}: rename one")
            sources[stem] = path
        return [
            Job(path, {format: stem.with_name(f"{stem.name}.{format}") for format in self.formats})
            for stem, path in sources.items()
        ]

    def write(self, job: Job, transcript: "Transcript") -> None:
        """Write the files of a job, each only when it is complete; or print, if there are none and it is no text."""
        from audio.subtitles import FORMATS as writers
        from core.weights.files import replacing

        for format, place in job.places.items():
            with replacing(place) as draft:
                draft.write_text(writers[format](transcript, self.layout), encoding="utf-8")
        if not job.places:
            sys.stdout.write(writers[self.formats[0]](transcript, self.layout))
            sys.stdout.flush()
