"""Every configuration in ``configs/`` starts by the command that its head gives, and its checkpoints can carry it."""

from pathlib import Path

import pytest
import yaml

from core.train import cli

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(CONFIGS.rglob("*.yaml"))


class Parsed(cli.CommandLine):
    """Stops where the task and the data would be built: large ones take long."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": cli.CommandLine.subcommands()["fit"]}

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_as_it_stands_and_written_down(path: Path) -> None:
    cli.restrict_imports()
    kept = Parsed(["fit", "--config", str(path)])._recipe()
    given = yaml.safe_load(path.read_text())
    assert kept["model"]["class_path"] == given["model"]["class_path"]
    assert kept["data"]["class_path"] == given["data"]["class_path"]
