"""Subtitles equal those that openai-whisper writes."""

import io
import json
from dataclasses import asdict

import pytest
from whisper.utils import WriteSRT, WriteTXT, WriteVTT

from audio.subtitles import FORMATS, to_json, to_srt, to_txt, to_vtt
from audio.transcribe import Segment, Transcript

TIMES = [
    (0.0, 0.5),
    (0.5, 59.9994),
    (59.9996, 61.0),
    (3599.9999, 3600.0),
    (3661.001, 7322.0025),
    (360_000.0, 360_001.5),
]


def transcript(texts: list[str]) -> Transcript:
    segments = [Segment(a, b, text, (1, 2), -0.5, 0.1, 1.2) for (a, b), text in zip(TIMES, texts, strict=False)]
    return Transcript(tuple(segments), "en", 400_000.0)


SPOKEN = transcript([" Hello there.", " Two --> three", " ünïcödé 日本", " x", " y ", "z"])
SILENT = transcript([])


def reference(writer: type, spoken: Transcript) -> str:
    file = io.StringIO()
    writer(".").write_result({"segments": [asdict(segment) for segment in spoken.segments]}, file)
    return file.getvalue()


@pytest.mark.parametrize("spoken", [SPOKEN, SILENT], ids=["spoken", "silent"])
def test_txt_and_srt_equal_openai(spoken: Transcript) -> None:
    assert to_txt(spoken) == reference(WriteTXT, spoken)
    assert to_srt(spoken) == reference(WriteSRT, spoken)


def test_vtt_equals_openai_but_for_optional_hours() -> None:
    class Hours(WriteVTT):
        always_include_hours = True

    plain = transcript([" Hello there.", " ünïcödé 日本", " x"])
    assert to_vtt(plain) == reference(Hours, plain)
    assert to_vtt(SILENT) == reference(Hours, SILENT)


def test_vtt_escapes_markup() -> None:
    assert "\nR&amp;D &lt;b&gt;\n" in to_vtt(transcript([" R&D <b>"]))


def test_json_holds_everything() -> None:
    line = to_json(SPOKEN)
    assert line.count("\n") == 1
    data = json.loads(line)
    assert data["text"] == SPOKEN.text == "Hello there. Two --> three ünïcödé 日本 x y z"
    assert data["language"] == "en"
    assert data["duration"] == 400_000.0
    assert data["segments"][1] == {**asdict(SPOKEN.segments[1]), "tokens": [1, 2]}


def test_formats() -> None:
    assert list(FORMATS) == ["txt", "srt", "vtt", "json"]
