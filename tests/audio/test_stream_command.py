"""``sensorium transcribe --stream``: text while samples still come through a pipe, and an end that is clean."""

import inspect
import io
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from audio.stream import Live, Update
from audio.transcript import Word
from audio.wer import word_error_rate
from core.data.audio import read_audio
from core.data.pcm import Pcm
from core.errors import InputError
from sensorium.cli import main
from sensorium.commands import hearing
from sensorium.commands.transcribe import transcribe
from sensorium.listening import Screen
from sensorium.microphone import microphone


@pytest.mark.parametrize("interrupted", [False, True])
def test_text_comes_before_the_pipe_ends(interrupted: bool, assets: Path) -> None:
    speech = (read_audio(assets / "speech" / "jfk.flac").numpy() * 32_767).astype("<i2").tobytes()
    silence = bytes(3 * 32_000)
    model = assets / "weights" / "whisper-tiny.en"
    command = [sys.executable, "-m", "sensorium", "transcribe", "--stream", "-", "--model", str(model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        watch = threading.Timer(300, process.kill)
        watch.start()
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(speech + silence)
        process.stdin.flush()
        heard = process.stdout.read(60)  # the pipe is open, and yet there is text
        if interrupted:
            process.send_signal(signal.SIGINT)
        else:
            process.stdin.close()
        heard += process.stdout.read()
        assert process.wait() == 0, process.stderr.read().decode()
        assert process.stderr.read() == b""
        watch.cancel()
    assert word_error_rate([(assets / "speech" / "jfk.txt").read_text()], [heard.decode()]) <= 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stream", "talk.wav"], "--stream hears - (standard input) or mic (the microphone), not talk.wav"),
        (["--stream", "-", "talk.wav"], "--stream takes no files"),
        (["--stream", "-", "--rate", "5"], "5 samples a second: expected 1000 to 768000"),
        (["--stream", "-", "--format", "srt"], "--format is for recordings, not for --stream"),
        (["--stream", "-", "-o", "talk.txt"], "--output is for recordings, not for --stream"),
        (["--stream", "-", "--clip-timestamps", "0,5"], "--clip-timestamps is for recordings"),
        (["talk.wav", "--rate", "8000"], "--rate is for --stream"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.startswith(f"error: {message}")) == ("", True)


def test_what_stream_knows_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {*hearing.LIVE, *hearing.RECORDED} < inspect.signature(transcribe).parameters.keys()
    given: list[object] = []
    monkeypatch.setattr("sensorium.listening.listen_to", lambda *arguments: given.extend(arguments))
    assert (
        main(["transcribe", "--stream", "-", "--no-vad", "--rate", "8000", "--samples", "u8", "--channels", "2"]) == 0
    )
    assert given[2:] == [Pcm(8000, "u8", 2), Live(pause=None)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def update(settled: str, partial: str) -> Update:
    parts = [tuple(Word(0.0, 0.0, f" {word}", 1.0) for word in text.split()) for text in (settled, partial)]
    return Update(parts[0], parts[1], 0.0, 0.0)


UPDATES = [
    update("", "And so"),
    update("And so", "my felow"),
    update("my fellow Americans. Ask", "not"),
    update("not", ""),
]


def test_a_file_gets_settled_text_only() -> None:
    out = io.StringIO()
    screen = Screen(out)
    for one in UPDATES:
        screen.show(one)
    assert out.getvalue() == "And so my fellow Americans.\nAsk not"
    screen.end()
    assert out.getvalue().endswith("Ask not\n")


def test_a_terminal_shows_what_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = Terminal()
    screen = Screen(out)
    for one in UPDATES:
        screen.show(one)
    screen.end()
    rows = [row.rsplit("\r\x1b[K", 1)[-1] for row in out.getvalue().split("\n")]
    assert rows == ["And so my fellow", "Americans.", "Ask not", ""]
    assert "And so\x1b[2m my felow\x1b[0m" in out.getvalue()
    plain = out.getvalue().replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert max(len(row) for line in plain.split("\n") for row in line.split("\r\x1b[K")) < 20


def test_the_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sounddevice", None)
        with pytest.raises(InputError, match=r"pip install 'sensorium\[mic\]'"):
            next(iter(microphone()))

    class Input:
        def __init__(self, rate: int, block: int, *, channels: int, dtype: str, callback) -> None:
            if rate != 16_000:
                raise ValueError("invalid sample rate")
            assert (channels, dtype) == (1, "float32")
            self.block, self.callback = block, callback

        def __enter__(self) -> None:
            for number in range(3):
                self.callback(np.full((self.block, 1), number / 4, np.float32), self.block, None, None)

        def __exit__(self, *error: object) -> None: ...

    fake = SimpleNamespace(InputStream=Input, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    blocks: Iterator = iter(microphone())
    assert [next(blocks)[0].item() for _ in range(3)] == [0.0, 0.25, 0.5]
    with pytest.raises(InputError, match="the microphone can't be used: invalid sample rate"):
        next(iter(microphone(8_000)))
