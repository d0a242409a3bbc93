"""``sensorium fit|validate|test|predict``: everything after the name goes to LightningCLI as it stands."""

import typer

__all__ = ["TRAINER_COMMANDS", "trainer_command"]

TRAINER_COMMANDS = {
    "fit": "Train a model: -c configs/... and any --option of it (--help lists them).",
    "validate": "Measure a checkpoint on the validation data: --ckpt_path FILE.",
    "test": "Measure a checkpoint on the test data: --ckpt_path FILE.",
    "predict": "Write a checkpoint's predictions: --ckpt_path FILE.",
}


def trainer_command(context: typer.Context) -> None:
    """Hand the command's name and all of its arguments to the trainer's own command line."""
    from core.train.cli import main

    main([str(context.info_name), *context.args])
