"""The house stands as it is drawn: listed packages, arrows that point down, a front door that opens at once."""

import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
TOPS = ("core", "audio", "vision", "diffusion", "multimodal", "sensorium")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PEERS = ("transformers", "diffusers", "open_clip", "xformers", "whisper", "faster_whisper", "ctranslate2")


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph(*TOPS, include_external_packages=True)


def tree() -> list[Path]:
    return [path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after `statement`."""
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_every_package_is_listed() -> None:
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in tree()}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(folders)


def test_no_two_files_of_tests_have_one_name() -> None:
    """Pytest imports them by their base names."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_every_folder_is_a_package() -> None:
    assert [path for path in {path.parent for path in tree()} if not (path / "__init__.py").exists()] == []


def test_arrows_point_down() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def may_train(module: str) -> bool:
    """Whether a module may know Lightning: core's trainer, the tasks, and the commands that call them."""
    parts = module.split(".")
    return parts[:2] == ["core", "train"] or "tasks" in parts or parts[0] == "sensorium"


def test_models_and_inference_reach_no_trainer() -> None:
    graph = imports()
    ours = [module for module in graph.modules if module.partition(".")[0] in TOPS and not may_train(module)]
    assert "audio.whisper" in ours
    chains = [
        graph.find_shortest_chain(module, trainer)
        for module in ours
        for trainer in ("lightning", "pytorch_lightning")
        if trainer in graph.modules
    ]
    assert [chain for chain in chains if chain] == []


def test_blocks_know_torch_only() -> None:
    graph = imports()
    third_party = {
        imported
        for module in graph.modules
        if module == "core.nn" or module.startswith("core.nn.")
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.partition(".")[0] not in {*TOPS, *sys.stdlib_module_names}
    }
    assert third_party - {"torch", "xformers"} == set()


@pytest.mark.parametrize("statement", ["import sensorium", "import sensorium.cli"])
def test_the_front_door_is_light(statement: str) -> None:
    assert loaded_by(statement) & {"torch", "numpy", "lightning", "timm", *PEERS} == set()


def test_inference_loads_no_trainer_and_no_peer() -> None:
    """None of these does: all together in one interpreter, since each would have to start with PyTorch."""
    statement = "import core.nn, audio.transcribe, vision.vit, core.weights, diffusion.generate"
    assert loaded_by(statement) & {"lightning", "pytorch_lightning", "torchmetrics", *PEERS} == set()


def test_files_can_be_read_in_one_sitting() -> None:
    long = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in tree()}
    assert {name: lines for name, lines in long.items() if lines >= 400} == {}
