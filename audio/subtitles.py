"""Write transcripts: plain text, SubRip (srt), WebVTT (vtt), JSON."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

from audio.transcribe import Segment, Transcript

__all__ = ["FORMATS", "to_json", "to_srt", "to_txt", "to_vtt"]


def to_txt(transcript: Transcript) -> str:
    """One segment a line."""
    return "".join(f"{segment.text.strip()}\n" for segment in transcript.segments)


def to_srt(transcript: Transcript) -> str:
    """Numbered cues, with times such as ``00:01:02,345``."""
    return "".join(
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{text}\n\n"
        for number, (segment, text) in enumerate(_cues(transcript), start=1)
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT (W3C), with times such as ``00:01:02.345``."""
    cues = (
        f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n{_escaped(text)}\n\n"
        for segment, text in _cues(transcript)
    )
    return "WEBVTT\n\n" + "".join(cues)


def to_json(transcript: Transcript) -> str:
    """One line: ``text``, ``language``, ``duration`` in seconds and ``segments``."""
    return json.dumps({"text": transcript.text, **asdict(transcript)}, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Transcript], str]] = {"txt": to_txt, "srt": to_srt, "vtt": to_vtt, "json": to_json}


def _cues(transcript: Transcript) -> Iterator[tuple[Segment, str]]:
    for segment in transcript.segments:
        yield segment, segment.text.strip().replace("-->", "->")  # an arrow in the text would read as a line of times


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{mark}{milliseconds % 1000:03d}"
