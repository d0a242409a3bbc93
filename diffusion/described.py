"""What a configuration says of a process or of latents, made: ``class_path`` and ``init_args``, of our own only."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from core.errors import InputError

__all__ = ["made"]

ROOMS = ("diffusion.process.", "diffusion.latents.")


def made(said: Mapping[str, Any]) -> Any:
    """Make an object of plain data, as training does of a configuration.

    Args:
        said: ``class_path`` is a public name in one of :data:`ROOMS`; ``init_args`` are plain, or such data again.

    Raises:
        InputError: if the class is none of these, or refuses its arguments.
    """
    path = str(said.get("class_path", ""))
    module, _, name = path.rpartition(".")
    if not f"{module}.".startswith(ROOMS):
        raise InputError(f"{path or dict(said)!r} can't be made: expected a class_path in {' or '.join(ROOMS)}")
    try:
        home = import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"there is no {path}: was the model made by a later version?") from error
    if name not in getattr(home, "__all__", ()):
        raise InputError(f"there is no {path}: {module} has {', '.join(getattr(home, '__all__', ()))}")
    given = {key: _value(value) for key, value in dict(said.get("init_args") or {}).items()}
    try:
        return getattr(home, name)(**given)
    except TypeError as error:
        raise InputError(f"{path} can't be made of {', '.join(given) or 'nothing'}: {error}") from error


def _value(value: Any) -> Any:
    if isinstance(value, Mapping) and "class_path" in value:
        return made(value)
    return tuple(value) if isinstance(value, list) else value
