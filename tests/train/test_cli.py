"""The trainer's command line: what it refuses, in one line and before anything runs; what it leaves behind."""

import csv
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from core.errors import InputError
from core.train.arguments import one_line
from core.train.cli import main


class _Runs:
    """Executes on unpickling."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in reach whose import leaves a trace."""
    trace = tmp_path / "trace"
    (tmp_path / "trap_for_imports.py").write_text(
        f"import pathlib\npathlib.Path({str(trace)!r}).touch()\nclass Task: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return trace


def _refused(*arguments: str) -> str:
    with pytest.raises(InputError) as caught:
        main(list(arguments))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


NAMES = ["trap_for_imports.Task", "os.system", "subprocess.Popen", "builtins.eval", "shutil.rmtree"]
PLACES = ["model", "model.init_args.model", "data", "data.init_args.format", "trainer.logger"]


def names_and_places() -> list:
    """One name in every place and every name in one place; the others when thorough."""
    return [
        pytest.param(name, place, marks=() if name == NAMES[0] or place == PLACES[0] else pytest.mark.thorough)
        for name in NAMES
        for place in PLACES
    ]


@pytest.mark.parametrize(("name", "place"), names_and_places())
def test_only_allowed_classes_are_imported(config: Callable[..., Path], trap: Path, name: str, place: str):
    path = config()
    content = yaml.safe_load(path.read_text())
    *way, last = place.split(".")
    here = content
    for step in way:
        here = here[step]
    here[last] = {"class_path": name, "init_args": {"command": f"touch {trap}", "args": f"touch {trap}"}}
    path.write_text(yaml.safe_dump(content))
    assert f"may not name {name}" in _refused("fit", "-c", str(path))
    assert not trap.exists()
    assert "trap_for_imports" not in sys.modules


def test_callbacks_and_recipes_are_restricted_too(config: Callable[..., Path], trap: Path, tmp_path: Path):
    path = config(callbacks=[{"class_path": "trap_for_imports.Task"}])
    assert "may not name trap_for_imports.Task" in _refused("fit", "-c", str(path))
    recipe = {"model": {"class_path": "trap_for_imports.Task"}}
    torch.save({"state_dict": {}, "loops": {}, "recipe": recipe}, tmp_path / "a.ckpt")
    assert "may not name trap_for_imports.Task" in _refused("validate", "--ckpt_path", str(tmp_path / "a.ckpt"))
    assert not trap.exists()


def test_bad_checkpoints(tmp_path: Path):
    def refused(path: Path) -> str:
        return _refused("predict", "--ckpt_path", str(path))

    file, trace = tmp_path / "file.ckpt", tmp_path / "trace"
    assert "no such checkpoint" in refused(file)
    assert "is a folder" in refused(tmp_path)
    for content in (b"", b"hello", b"PK\x03\x04 not a zip"):
        file.write_bytes(content)
        assert "not a checkpoint" in refused(file)
    for legacy in (False, True):
        torch.save({"state_dict": _Runs(trace)}, file, _use_new_zipfile_serialization=not legacy)
        assert "could run code" in refused(file)
    assert not trace.exists()
    torch.save({"weight": torch.zeros(3)}, file)
    assert "no state of a training" in refused(file)
    torch.save({"state_dict": {}, "loops": {}}, file)
    assert "without its configuration" in refused(file)


def test_a_bad_checkpoint_named_by_a_configuration(config: Callable[..., Path], tmp_path: Path):
    torch.save({"state_dict": _Runs(tmp_path / "trace")}, tmp_path / "bad.ckpt")
    path = config()
    path.write_text(f"{path.read_text()}\nckpt_path: {tmp_path / 'bad.ckpt'}\n")
    assert "could run code" in _refused("fit", "-c", str(path))
    assert not (tmp_path / "trace").exists()


def test_bad_options_and_configurations(config: Callable[..., Path], tmp_path: Path):
    path = str(config())
    runs = tmp_path / "runs"
    assert "needs a configuration" in _refused("fit")
    assert "needs trained weights" in _refused("test", "-c", path)
    assert "absent.yaml" in _refused("fit", "-c", str(tmp_path / "absent.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [1\nb: }")
    assert "line 1, column 4" in _refused("fit", "-c", str(tmp_path / "bad.yaml"))
    (tmp_path / "key.yaml").write_text("modle: 3")
    assert "modle" in _refused("fit", "-c", str(tmp_path / "key.yaml"))
    for option, value, part in (
        ("--trainer.foo", "3", "--trainer.foo"),
        ("--model.optim.lx", "3", "--optim.lx"),
        ("--model.classes", "many", "model.classes: Expected a <class 'int'>. Got value: many"),
        ("--model.classes", "3", "4 classes"),
        ("--model.model.config.patch", "3", "(3, 3)"),
        ("--model.model.config.classes", "5", "expected (batch, 4)"),
        ("--data.root", str(tmp_path / "absent"), "no such folder"),
        ("--data.batch_size", "1000", "fewer than one batch"),
        ("--data.batch_size", "7", "batch size even"),
        ("--trainer.max_epochs", "-1", "--trainer.max_steps"),
        ("--trainer.strategy", "none_such", "none_such"),
        ("--name", "a/b", "plain name"),
        ("--ckpt_path", str(tmp_path / "absent.ckpt"), "no such checkpoint"),
    ):
        assert part in _refused("fit", "-c", path, option, value), (option, value)
        assert not runs.exists() or not list(runs.rglob("*")), option


def test_from_the_checkpoint_alone(config: Callable[..., Path], idx_folder: Path, tmp_path: Path, capsys):
    path = config(noise=0.0, max_epochs=1)
    main(["fit", "-c", str(path), "--test_after_fit", "true"])
    folder = tmp_path / "runs" / "tiny" / "version_0"
    assert {"config.yaml", "metrics.csv", "best.ckpt", "last.ckpt"} <= {file.name for file in folder.iterdir()}
    assert any(file.name.startswith("events.out.tfevents") for file in folder.iterdir())
    said = capsys.readouterr().out
    assert "epoch 1/1" in said
    assert "test/accuracy" in said
    path.unlink()

    def metrics(folder: Path, name: str) -> float:
        with (folder / "metrics.csv").open() as file:
            return float([row[name] for row in csv.DictReader(file) if row.get(name)][-1])

    best = str(shutil.copy(folder / "best.ckpt", tmp_path / "moved.ckpt"))
    main(["validate", "--ckpt_path", best, "--name", "validated"])
    main(["test", "--ckpt_path", best, "--name", "tested"])
    runs = tmp_path / "runs"
    assert metrics(runs / "validated" / "version_0", "val/loss") == metrics(folder, "val/loss")
    assert metrics(runs / "tested" / "version_0", "test/loss") == metrics(folder, "test/loss")

    # with other data of the same kind, by one option
    other = shutil.copytree(idx_folder, tmp_path / "other")
    shutil.copy(idx_folder / "train-images-idx3-ubyte", other / "t10k-images-idx3-ubyte")
    shutil.copy(idx_folder / "train-labels-idx1-ubyte", other / "t10k-labels-idx1-ubyte")
    main(["predict", "--ckpt_path", best, "--data.root", str(other)])
    (table,) = runs.rglob("predictions.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(number) for number in range(100)]
    assert all({row["class"], row["class_4"]} < {"nw", "ne", "sw", "se"} for row in rows)
    assert all(["nw", "ne", "sw", "se"][int(row["class_id"])] == row["class"] for row in rows)
    columns = ["probability", "probability_2", "probability_3", "probability_4"]
    assert all(sum(float(row[column]) for column in columns) == pytest.approx(1, abs=1e-5) for row in rows)

    # another model than that of the weights
    assert "doesn't fit this model" in _refused("test", "--ckpt_path", best, "--model.model.config.dim", "8")


def test_no_run_overwrites_another(config: Callable[..., Path], tmp_path: Path):
    path = config(max_epochs=1)
    main(["fit", "-c", str(path)])
    first = {file: file.read_bytes() for file in (tmp_path / "runs").rglob("*") if file.is_file()}
    main(["fit", "-c", str(path)])
    assert sorted(folder.name for folder in (tmp_path / "runs" / "tiny").iterdir()) == ["version_0", "version_1"]
    assert all(file.read_bytes() == content for file, content in first.items())


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_has_examples(command: str, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert f"\n  sensorium {command} --ckpt_path" in said
    assert "--data.help" in said or "--data CONFIG" in said


def test_help_of_a_class_needs_no_configuration(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "vision.tasks.classify.Classify"])
    assert "--model.smoothing" in capsys.readouterr().out


def test_options_count_wherever_they_stand(config: Callable[..., Path], tmp_path: Path):
    main(["fit", "--trainer.max_epochs", "1", "--name", "first", "-c", str(config())])
    assert yaml.safe_load((tmp_path / "runs/first/version_0/config.yaml").read_text())["trainer"]["max_epochs"] == 1
    assert "-c needs the name of a file" in _refused("fit", "-c")


def test_errors_of_the_parser_in_one_line():
    message = """Parser key "model":
      Does not validate against any of the Union subtypes
      Subtypes: [<class 'core.train.task.Task'>, <class 'NoneType'>]
      Errors:
        - Problem with given class_path 'vision.tasks.classify.Classify':
            Parser key "classes":
              Expected a <class 'int'>. Got value: foo
        - Expected a <class 'NoneType'>
      Given value type: <class 'jsonargparse._util.NestedArg'>
      Given value: NestedArg(key='classes', val='foo')"""
    assert one_line(message) == "model.classes: Expected a <class 'int'>. Got value: foo"
    assert one_line("plain") == "plain"
