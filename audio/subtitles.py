"""Write transcripts: plain text, SubRip (srt), WebVTT (vtt), tab-separated values (tsv), JSON, lyrics (lrc).

txt, srt, vtt and tsv are what openai/whisper's writers (``whisper/utils.py``) make of the same result, but for this:

* vtt: ``&``, ``<`` and ``>`` in what was spoken are escaped, as WebVTT demands.
* srt and vtt: ``-->`` is written ``->`` also where there are word times.
* A segment without words among others that have some is shown; theirs leaves it out.
"""

import json
from dataclasses import asdict
from typing import Any, Protocol

from audio.cues import Layout, Line, cues, has_words, milliseconds, subtitles
from audio.transcript import Segment, Transcript, Word

__all__ = ["FORMATS", "Layout", "Writer", "to_json", "to_lrc", "to_srt", "to_tsv", "to_txt", "to_vtt"]


class Writer(Protocol):
    """Turns a transcript into the text of a file. A layout matters to srt, vtt and lrc only."""

    def __call__(self, transcript: Transcript, layout: Layout = ..., /) -> str: ...


def to_txt(transcript: Transcript, layout: Layout = Layout()) -> str:
    """One segment a line."""
    return "".join(f"{segment.text.strip()}\n" for segment in transcript.segments)


def to_srt(transcript: Transcript, layout: Layout = Layout()) -> str:
    """Numbered cues, with times such as ``00:01:02,345``."""
    return "".join(
        f"{number}\n{_srt_time(start)} --> {_srt_time(end)}\n{text}\n\n"
        for number, (start, end, text) in enumerate(cues(transcript, layout), start=1)
    )


def to_vtt(transcript: Transcript, layout: Layout = Layout()) -> str:
    """WebVTT (W3C), with times such as ``01:02.345``, and hours only where there are some."""
    shown = cues(transcript, layout, escape=_escaped)
    return "WEBVTT\n\n" + "".join(f"{_vtt_time(start)} --> {_vtt_time(end)}\n{text}\n\n" for start, end, text in shown)


def to_tsv(transcript: Transcript, layout: Layout = Layout()) -> str:
    """One segment a line: start and end in whole milliseconds and text, below a line of titles."""
    rows = (
        f"{milliseconds(segment.start)}\t{milliseconds(segment.end)}\t" + segment.text.strip().replace("\t", " ")
        for segment in transcript.segments
    )
    return "".join(f"{row}\n" for row in ("start\tend\ttext", *rows))


def to_json(transcript: Transcript, layout: Layout = Layout()) -> str:
    """One line: ``text``, ``language``, ``duration`` in seconds and ``segments``.

    They are named as openai-whisper's; of a word the ``word``, ``start``, ``end`` and ``probability``. Theirs lacks
    ``logprobs``, one for each of the ``tokens``.
    """
    segments = [_segment_fields(segment) for segment in transcript.segments]
    fields = {
        "text": transcript.text,
        "segments": segments,
        "language": transcript.language,
        "duration": transcript.duration,
    }
    return json.dumps(fields, ensure_ascii=False) + "\n"


def to_lrc(transcript: Transcript, layout: Layout = Layout()) -> str:
    """Lyrics: a line for each line of a subtitle, such as ``[01:02.34]Hello there``.

    Highlighted words have times of their own, as in ``[01:02.34]<01:02.34>Hello <01:02.51>there<01:02.80>``
    ("enhanced" or A2 lyrics).
    """
    if not has_words(transcript):
        lines = [f"{_lrc_time(segment.start)}{_one_line(segment.text)}" for segment in transcript.segments]
    else:
        shown = (line for lines in subtitles(transcript.segments, layout) for line in lines)
        lines = [_lyrics(line, layout.highlight_words) for line in shown]
    return "".join(f"{line}\n" for line in lines)


FORMATS: dict[str, Writer] = {
    "txt": to_txt,
    "srt": to_srt,
    "vtt": to_vtt,
    "tsv": to_tsv,
    "json": to_json,
    "lrc": to_lrc,
}


def _segment_fields(segment: Segment) -> dict[str, Any]:
    fields = asdict(segment)
    words = fields.pop("words")
    if segment.language is None:
        del fields["language"]
    if segment.logprobs:
        fields["logprobs"] = [round(logprob, 4) for logprob in segment.logprobs]
    else:
        del fields["logprobs"]
    if words:
        fields["words"] = [
            {"word": word["text"], **{name: word[name] for name in ("start", "end", "probability")}} for word in words
        ]
    return fields


def _lyrics(line: Line, timed: bool) -> str:
    start = _lrc_time(line[0].start)
    if not timed:
        return start + _one_line("".join(word.text for word in line))
    return start + "".join(_timed(word) for word in line) + _lrc_time(line[-1].end, "<>")


def _timed(word: Word) -> str:
    """The space before a word stays before its time."""
    text = word.text.lstrip()
    return " " * (len(word.text) > len(text)) + _lrc_time(word.start, "<>") + _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _srt_time(time: int) -> str:
    hours, minutes, seconds, rest = _clock(time)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d},{rest:03d}"


def _vtt_time(time: int) -> str:
    hours, minutes, seconds, rest = _clock(time)
    return (f"{hours:02d}:" if hours else "") + f"{minutes:02d}:{seconds:02d}.{rest:03d}"


def _lrc_time(seconds: float, brackets: str = "[]") -> str:
    minutes, hundredths = divmod(round(seconds * 100), 6000)
    return f"{brackets[0]}{minutes:02d}:{hundredths // 100:02d}.{hundredths % 100:02d}{brackets[1]}"


def _clock(time: int) -> tuple[int, int, int, int]:
    """Hours, minutes, seconds, milliseconds."""
    seconds, rest = divmod(time, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return hours, minutes, seconds, rest
