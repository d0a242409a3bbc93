"""Every configuration in ``configs/`` starts by the command that its head gives, and its checkpoints can carry it."""

from pathlib import Path

import pytest
import torch
import yaml

from core.train import cli

CONFIGS = Path(__file__).parents[2] / "configs"
MISSING = ("no such file; expected a tokenizer", "no autoencoder; expected a folder")  # what a person must have
RECIPES = sorted(CONFIGS.rglob("*.yaml"))


class Built(cli.CommandLine):
    """Builds the task, without numbers in its weights, and the data; then it stops."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": cli.CommandLine.subcommands()["fit"]}

    def instantiate_classes(self) -> None:
        try:
            with torch.device("meta"):
                self.config_init = self.parser.instantiate_classes(self.config)
        except ValueError as error:
            if not any(missing in str(error) for missing in MISSING):
                raise

    def _run_subcommand(self, subcommand: str) -> None: ...


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_built_as_it_stands_and_written_down(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "EXAMPLES", {"fit": ""})  # building the parsers of all commands takes longer than all else
    cli.restrict_imports()
    kept = Built(["fit", "--config", str(path)])._recipe()
    given = yaml.safe_load(path.read_text())
    assert kept["model"]["class_path"] == given["model"]["class_path"]
    assert kept["data"]["class_path"] == given["data"]["class_path"]
