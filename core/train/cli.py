"""``sensorium fit | validate | test | predict``: LightningCLI with an allowlist, exact resuming and useful defaults."""

import sys
import warnings
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any

from jsonargparse import DefaultHelpFormatter, Namespace
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from core.errors import InputError
from core.train.arguments import one_line, restrict_imports, with_recipe
from core.train.checkpoint import Best, Last, Recipe, read_checkpoint
from core.train.folders import new_folder, one_run, remove
from core.train.progress import EpochLines
from core.train.resume import Resume
from core.train.task import Task

__all__ = ["main"]

EXAMPLES = {
    "fit": """train a model

examples:
  sensorium fit -c configs/vision/classify_vit_fashion_mnist.yaml
  sensorium fit -c CONFIG.yaml --trainer.max_epochs 20 --model.optim.lr 5e-4      change something
  sensorium fit -c CONFIG.yaml --trainer.devices 2 --trainer.strategy ddp         several processes, same batches
  sensorium fit --ckpt_path runs/NAME/version_0/last.ckpt                         go on where a run was stopped
""",
    "validate": """measure a checkpoint on the validation data

examples:
  sensorium validate --ckpt_path runs/NAME/version_0/best.ckpt
  sensorium validate --ckpt_path FILE.ckpt --data.root OTHER_FOLDER
""",
    "test": """measure a checkpoint on the test data

examples:
  sensorium test --ckpt_path runs/NAME/version_0/best.ckpt
  sensorium test --ckpt_path FILE.ckpt --data.root OTHER_FOLDER
""",
    "predict": """write a checkpoint's predictions

examples:
  sensorium predict --ckpt_path runs/NAME/version_0/best.ckpt
  sensorium predict --ckpt_path FILE.ckpt --data.root FOLDER_OF_IMAGES
""",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        argv: The subcommand and its options; by default those of the process.

    Raises:
        InputError: If an option, a configuration, a checkpoint or data can't be used.
        SystemExit: After ``--help``.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    restrict_imports()
    _quiet()
    arguments = with_recipe(given, tuple(EXAMPLES))
    # processes that Lightning starts for the other ranks repeat the command line of this one
    before, sys.argv = sys.argv, [sys.argv[0], *given]
    try:
        with one_run():
            CommandLine(arguments)
    except ArgumentError as error:
        raise InputError(one_line(str(error))) from error
    finally:
        sys.argv = before


class CommandLine(LightningCLI):
    """LightningCLI over any :class:`Task` and data module.

    Results go to ``RUNS/NAME/version_N``, a folder that didn't exist before: ``config.yaml``, ``metrics.csv``,
    TensorBoard's events, ``best.ckpt`` and ``last.ckpt``. Checkpoints carry the configuration, so that they are
    enough to go on.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.folder = Path()
        self._kept: list[Callback] = []
        common: dict[str, Any] = {"exit_on_error": False, "prog": "sensorium", "formatter_class": _Examples}
        usage = "sensorium {} -c CONFIG.yaml | --ckpt_path FILE.ckpt [--OPTION VALUE ...]"
        parsers = {
            name: {**common, "usage": usage.format(name), "description": text} for name, text in EXAMPLES.items()
        }
        super().__init__(
            model_class=Task,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={**common, **parsers},
            args=arguments,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, and which arguments of the trainer's methods are no options."""
        inner = {"model", "datamodule", "weights_only", "return_predictions", "verbose"}
        return {
            "fit": inner | {"train_dataloaders", "val_dataloaders"},
            **{name: inner | {"dataloaders"} for name in ("validate", "test", "predict")},
        }

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse `args`, which differ from those of the process where the configuration comes from a checkpoint."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The options that are neither the trainer's nor the task's."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="name of the run; by default its configuration's"
        )
        parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
        parser.add_argument(
            "--save_every", type=int, default=0, help="optimizer steps between savings of last.ckpt within epochs"
        )
        parser.add_argument(
            "--test_after_fit", type=bool, default=False, help="measure the best checkpoint on the test data"
        )

    def before_instantiate_classes(self) -> None:
        """Refuse to measure or predict with random weights, or to load a file that is no checkpoint."""
        path = self._get(self.config, "ckpt_path")
        if path is not None:
            read_checkpoint(Path(path))
        elif self.subcommand != "fit":
            raise InputError(f"{self.subcommand} needs trained weights: --ckpt_path FILE.ckpt")

    def instantiate_classes(self) -> None:
        """Build the task, the data and the trainer."""
        try:
            super().instantiate_classes()
        except InputError:
            raise
        except ValueError as error:
            # what a constructor says of its arguments, which come from the configuration
            raise InputError(one_line(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with our loggers and callbacks beside those of the configuration."""
        given = self._get(self.config_init, "trainer")
        self.folder = new_folder(Path(self._get(self.config, "runs")) / self._name())
        try:
            kwargs["callbacks"] = [*_as_list(given.get("callbacks")), *self._callbacks(given)]
            if given.get("logger") in (None, True):
                kwargs["logger"] = self._loggers()
            if given.get("default_root_dir") is None:
                kwargs["default_root_dir"] = str(self.folder)
            return super().instantiate_trainer(**kwargs)
        except InputError:
            remove(self.folder)
            raise
        except (MisconfigurationException, RuntimeError, ValueError) as error:
            remove(self.folder)
            raise InputError(f"trainer: {one_line(str(error))}") from error

    def fit(self, **kwargs: Any) -> None:
        """Train, say where the results are, and test if that was asked for."""
        self.model.resumes = kwargs.get("ckpt_path") is not None
        self._run("fit", **kwargs)
        best = next((kept.best_model_path for kept in self._kept if isinstance(kept, Best)), "") or None
        if self.trainer.is_global_zero:
            use = f"; use them: sensorium test|predict --ckpt_path {best}" if best else ""
            print(f"results in {self.folder}{use}", flush=True)
        if self._get(self.config, "test_after_fit"):
            self._run("test", model=self.model, datamodule=self.datamodule, ckpt_path=best)

    def validate(self, **kwargs: Any) -> None:
        """Measure on the validation data."""
        self._run("validate", **kwargs)

    def test(self, **kwargs: Any) -> None:
        """Measure on the test data."""
        self._run("test", **kwargs)

    def predict(self, **kwargs: Any) -> None:
        """Write predictions."""
        self._run("predict", return_predictions=False, **kwargs)
        if self.trainer.is_global_zero:
            print(f"predictions in {self.folder}", flush=True)

    def _run(self, method: str, **kwargs: Any) -> None:
        try:
            getattr(self.trainer, method)(weights_only=True, **kwargs)
        except (InputError, MisconfigurationException) as error:
            if self.trainer.is_global_zero and not any(self.folder.glob("*.ckpt")):
                remove(self.folder)
            raise error if isinstance(error, InputError) else InputError(one_line(str(error))) from error

    def _callbacks(self, given: Namespace) -> list[Callback]:
        callbacks: list[Callback] = []
        if given.get("enable_progress_bar") is not False:
            callbacks.append(RichProgressBar() if sys.stdout.isatty() else EpochLines())
        if self.subcommand == "predict":
            callbacks.append(self._writer())
        if self.subcommand != "fit":
            return callbacks
        callbacks += [Resume(self._get(self.config, "seed_everything")), Recipe(self.folder, self._recipe())]
        if given.get("logger") is not False:
            callbacks.append(LearningRateMonitor("step"))
        if given.get("enable_checkpointing") is not False:
            every = self._get(self.config, "save_every")
            self._kept = [Best(self.folder, self.model.monitor, self.model.mode), Last(self.folder)]
            self._kept += [Last(self.folder, every)] if every else []
        return [*callbacks, *self._kept]

    def _writer(self) -> Callback:
        writer: Callback | None = self.model.prediction_writer(self.folder)
        if writer is None:
            raise InputError(f"{type(self.model).__name__} has no predictions to write")
        return writer

    def _loggers(self) -> list[Logger]:
        place: dict[str, Any] = {
            "save_dir": self.folder.parent.parent,
            "name": self.folder.parent.name,
            "version": self.folder.name,
        }
        if self.subcommand == "predict":
            return []
        return [CSVLogger(**place)] + ([TensorBoardLogger(**place)] if self.subcommand == "fit" else [])

    def _name(self) -> str:
        name = self._get(self.config, "name")
        files = [file for file in _as_list(self._get(self.config, "config")) if file is not None]
        name = name or (Path(str(files[-1])).stem if files else type(self.model).__name__.lower())
        if Path(name).name != name:
            raise InputError(f"--name {name}: must be a plain name; --runs sets the folder of all runs")
        return name

    def _recipe(self) -> dict[str, Any]:
        """The configuration as plain values, without what belongs to this one call."""
        self._dump_config()
        return {key: value for key, value in self.config_dump.items() if key not in ("config", "ckpt_path")} | {
            "name": self._name()
        }

    def _parse_ckpt_path(self) -> None:
        """Nothing: the configuration comes from our own recipe; Lightning would read the whole file once more."""


class _Examples(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the examples as they are."""


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _quiet() -> None:
    """Let what Lightning has to say about itself not bury what matters."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        getLogger(name).setLevel(WARNING)
    for message in (
        ".*smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # it is new, and holds what was logged so far
        ".*LeafSpec.* is deprecated.*",
        "Found .* in eval mode at the start of training.*",  # teachers and frozen encoders are meant to be
        "The dirpath has changed.*",  # a resumed run has a folder of its own
        "Be aware that when using `ckpt_path`, callbacks.*",  # to evaluate, those of the training are not needed
    ):
        warnings.filterwarnings("ignore", message=message)
