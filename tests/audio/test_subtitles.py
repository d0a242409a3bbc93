"""Subtitles equal those that openai-whisper writes."""

import io
import itertools
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from whisper.utils import ResultWriter, WriteSRT, WriteTSV, WriteTXT, WriteVTT

from audio.subtitles import FORMATS, Layout, to_json, to_lrc, to_srt, to_tsv, to_txt, to_vtt
from audio.transcript import Segment, Transcript, Word
from core.errors import InputError

TIMES = [
    (0.0, 0.5),
    (0.5, 59.9994),
    (59.9996, 61.0),
    (3599.9999, 3600.0),
    (3661.001, 7322.0025),
    (360_000.0, 360_001.5),
]


def transcript(texts: list[str]) -> Transcript:
    segments = [Segment(a, b, text, (1, 2), -0.5, 0.1, 1.2, 0.0) for (a, b), text in zip(TIMES, texts, strict=False)]
    return Transcript(tuple(segments), "en", 400_000.0)


def spoken_words(seed: int, pieces: list[str], segments: int = 12) -> Transcript:
    """Segments of up to nine words, with pauses of up to seven seconds, within words' times that may touch."""
    draw = np.random.default_rng(seed)
    now, made = float(draw.uniform(0, 2)), []
    for _ in range(segments):
        words = []
        for _ in range(draw.integers(1, 10)):
            end = now + float(draw.uniform(0, 0.6))
            words.append(Word(now, end, str(draw.choice(pieces)), float(draw.uniform())))
            now = end + float(draw.choice([0.0, 0.0, 0.1, 0.4, 4.0, 7.0], p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]))
        text = "".join(word.text for word in words)
        made.append(
            Segment(words[0].start, words[-1].end, text, (1, 2), -0.5, 0.1, 1.2, 0.0, tuple(words)),
        )
    return Transcript(tuple(made), "en", now)


SPOKEN = transcript([" Hello there.", " Two --> three", " ünïcödé 日本", " x\ty", " y ", "z"])
PLAIN = transcript([" Hello there.", " ünïcödé 日本", " x", "", " y ", "z"])  # nothing that vtt escapes
SILENT = transcript([])
PIECES = [
    " a",
    " word",
    " Hello,",
    " extraordinarily",
    "-like",
    " 日本",
    "語",
    " ünïcödé.",
    " 12%",
    " ",
    "",
    "\n",
    " a\nb",
]
LAYOUTS = [
    Layout(highlight, width, count, words)
    for highlight, width, count, words in itertools.product(
        (False, True), (None, 8, 20, 42), (None, 1, 2), (None, 1, 3, 100)
    )
]


def reference(writer: type[ResultWriter], spoken: Transcript, layout: Layout = Layout()) -> str:
    segments = [asdict(segment) for segment in spoken.segments]
    for segment in segments:
        words = [{**word, "word": word["text"]} for word in segment.pop("words")]
        segment.update({"words": words} if words else {})
    file = io.StringIO()
    writer(".").write_result({"segments": segments}, file, asdict(layout))
    return file.getvalue()


@pytest.mark.parametrize("spoken", [SPOKEN, PLAIN, SILENT], ids=["spoken", "plain", "silent"])
def test_segments_equal_openai(spoken: Transcript) -> None:
    assert to_txt(spoken) == reference(WriteTXT, spoken)
    assert to_srt(spoken) == reference(WriteSRT, spoken)
    assert to_tsv(spoken) == reference(WriteTSV, spoken)
    if spoken is not SPOKEN:
        assert to_vtt(spoken) == reference(WriteVTT, spoken)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_words_equal_openai(layout: Layout) -> None:
    for seed in range(6):
        spoken = spoken_words(seed, PIECES)
        assert to_srt(spoken, layout) == reference(WriteSRT, spoken, layout)
        assert to_vtt(spoken, layout) == reference(WriteVTT, spoken, layout)
        assert to_tsv(spoken, layout) == reference(WriteTSV, spoken, layout)
        assert to_txt(spoken, layout) == reference(WriteTXT, spoken, layout)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_segments_without_words_are_shown_whole(layout: Layout) -> None:
    assert to_srt(SPOKEN, layout) == to_srt(SPOKEN) == reference(WriteSRT, SPOKEN, layout)


def test_a_segment_that_alone_has_no_words_is_shown() -> None:
    """openai-whisper leaves it out."""
    spoken = spoken_words(0, [" a", " word"], segments=3)
    odd = replace(spoken.segments[1], words=(), text=" Odd one.")
    spoken = replace(spoken, segments=(spoken.segments[0], odd, spoken.segments[2]))
    assert to_srt(spoken).count("\nOdd one.\n") == 1
    assert "<u>Odd one.</u>" in to_srt(spoken, Layout(highlight_words=True))


def test_vtt_escapes_markup_that_was_spoken() -> None:
    assert "\nR&amp;D &lt;b&gt;\n" in to_vtt(transcript([" R&D <b>"]))
    spoken = spoken_words(0, [" R&D", " <b>"])
    shown = to_vtt(spoken, Layout(highlight_words=True))
    assert "<u>R&amp;D</u>" in shown
    assert "<u>&lt;b&gt;</u>" in shown
    assert "<b>" not in shown


@pytest.mark.parametrize("layout", [Layout(), Layout(highlight_words=True), Layout(max_words_per_line=2)], ids=str)
def test_no_arrow_but_those_of_times(layout: Layout) -> None:
    spoken = spoken_words(1, [" -->", " --", ">", " so"])
    for write in (to_srt, to_vtt):
        lines = [line for line in write(spoken, layout).splitlines() if "-->" in line]
        assert lines
        assert all(line.count(":") >= 2 for line in lines)


def test_json_holds_everything() -> None:
    line = to_json(SPOKEN)
    assert line.count("\n") == 1
    data = json.loads(line)
    assert data["text"] == SPOKEN.text == "Hello there. Two --> three ünïcödé 日本 x\ty y z"
    assert data["language"] == "en"
    assert data["duration"] == 400_000.0
    expected = {**asdict(SPOKEN.segments[1]), "tokens": [1, 2]}
    assert {**data["segments"][1], "words": (), "language": None, "logprobs": ()} == expected
    heard = replace(SPOKEN.segments[1], language="de", logprobs=(-0.123456, -2.0))
    segment = json.loads(to_json(replace(SPOKEN, segments=(heard,))))["segments"][0]
    assert (segment["language"], segment["logprobs"]) == ("de", [-0.1235, -2.0])


def test_json_names_words_as_openai() -> None:
    spoken = spoken_words(0, [" a", " b"])
    first = spoken.segments[0].words[0]
    assert json.loads(to_json(spoken))["segments"][0]["words"][0] == {
        "word": first.text,
        "start": first.start,
        "end": first.end,
        "probability": first.probability,
    }


def test_lrc() -> None:
    assert (
        to_lrc(transcript([" Hello there.", " so", " Two"])) == "[00:00.00]Hello there.\n[00:00.50]so\n[01:00.00]Two\n"
    )
    words = (Word(61.0, 61.499, " Hello", 0.9), Word(61.5, 62.0, " there", 0.9), Word(62.0, 62.8, "!", 0.9))
    spoken = Transcript((Segment(61.0, 62.8, " Hello there!", (1,), -0.5, 0.1, 1.2, 0.0, words),), "en", 70.0)
    assert to_lrc(spoken) == "[01:01.00]Hello there!\n"
    assert to_lrc(spoken, Layout(max_words_per_line=1)) == "[01:01.00]Hello\n[01:01.50]there\n[01:02.00]!\n"
    assert to_lrc(spoken, Layout(max_line_width=6)) == "[01:01.00]Hello\n[01:01.50]there!\n"
    enhanced = "[01:01.00]<01:01.00>Hello <01:01.50>there<01:02.00>!<01:02.80>\n"
    assert to_lrc(spoken, Layout(highlight_words=True)) == enhanced
    assert to_lrc(SILENT) == ""


@pytest.mark.parametrize("name", ["max_line_width", "max_line_count", "max_words_per_line"])
def test_what_a_layout_refuses(name: str) -> None:
    with pytest.raises(InputError, match=f"{name.replace('_', ' ')} 0: expected at least 1"):
        Layout(**{name: 0})


def test_formats() -> None:
    assert list(FORMATS) == ["txt", "srt", "vtt", "tsv", "json", "lrc"]
    for write in FORMATS.values():
        assert isinstance(write(SPOKEN), str)
