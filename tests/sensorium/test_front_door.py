"""The command line opens at once, hands on what belongs to others, and leaves with the right code."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import core.train.cli
import sensorium
from core.errors import InputError
from sensorium import cli

LIMIT = 1.0  # seconds


def seconds(*command: str) -> float:
    """The best of three runs of a fresh interpreter."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


@pytest.mark.parametrize("command", [("-c", "import sensorium"), ("-m", "sensorium", "--help")], ids=["import", "help"])
def test_opens_at_once(command: tuple[str, ...]) -> None:
    assert seconds(*command) < LIMIT


def test_everything_after_the_command_goes_to_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(core.train.cli, "main", seen.append)
    given = ["-c", "a.yaml", "--model.optim.lr", "1e-3", "--help", "--trainer.devices=2", "-h", "rest"]
    for name in ("fit", "validate", "test", "predict"):
        assert cli.main([name, *given]) == 0
    assert seen == [[name, *given] for name in ("fit", "validate", "test", "predict")]


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (InputError("the file\nis odd"), 2, "error: the file is odd\n"),
        (FileNotFoundError(2, "No such file or directory", "a.wav"), 2, "error: no such file or directory: a.wav\n"),
        (RuntimeError("broken"), 1, "error: RuntimeError: broken (add --debug to see where)\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(3), 3, ""),
        (SystemExit("gone"), 1, "gone\n"),
        (SystemExit(None), 0, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_exit_codes(
    raised: BaseException, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(argv: list[str]) -> None:
        raise raised

    monkeypatch.setattr(core.train.cli, "main", fail)
    assert cli.main(["fit"]) == code
    assert capsys.readouterr().err == told


def test_help_of_each_command(capsys: pytest.CaptureFixture) -> None:
    for name in ("transcribe", "models", "version"):
        assert cli.main([name, "--help"]) == 0
        assert f"sensorium {name}" in capsys.readouterr().out


def test_version_and_names(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["version"]) == 0
    assert f"sensorium {sensorium.__version__}" in capsys.readouterr().out
    assert cli.main(["models"]) == 0
    assert "turbo" in capsys.readouterr().out.split()
    assert {"load", "list_models", "__version__"} <= set(dir(sensorium))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = sensorium.lode
    assert Path(sensorium.__file__).parent.name == "sensorium"
