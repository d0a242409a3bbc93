"""A trained task from its checkpoint alone."""

from pathlib import Path

from jsonargparse import ArgumentParser

from core.errors import InputError
from core.train.arguments import one_line, restrict_imports
from core.train.checkpoint import KEY, read_checkpoint
from core.train.task import Task

__all__ = ["rebuild"]


def rebuild(path: Path | str) -> Task:
    """Build the task that a checkpoint was trained with, as its recipe says, and fill it.

    Where the task averages its weights, its model has the average; adapters are merged.

    Returns:
        The task in evaluation mode, on the CPU.

    Raises:
        InputError: If the file is no checkpoint of a training, has no recipe, or names what may not be named.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    recipe = checkpoint.get(KEY)
    if not isinstance(recipe, dict) or not isinstance(recipe.get("model"), dict):
        raise InputError(f"{path}: a checkpoint without its configuration, from which no model can be built")
    restrict_imports()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    try:
        task: Task = parser.instantiate_classes(parser.parse_object({"model": recipe["model"]})).model
    # jsonargparse lets whatever went wrong through in its own way
    except Exception as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: its configuration can't be used: {one_line(str(error))}") from error
    task.configure_model()
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    task.finish()
    return task.eval()
