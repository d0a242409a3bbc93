"""The trainer's arguments: what may be named, where the configuration comes from, errors in one line."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_parsing_settings

from core.errors import InputError
from core.train.checkpoint import read_recipe

__all__ = ["ALLOWED", "one_line", "restrict_imports", "with_recipe"]

_OURS = ("core", "audio", "vision", "diffusion", "multimodal")
_LIGHTNING = ("callbacks", "loggers", "plugins", "profilers", "strategies", "accelerators")

ALLOWED = [
    *_OURS,
    "torch.nn",
    "torch.optim",
    *(f"lightning.pytorch.{part}" for part in _LIGHTNING),
    "lightning.fabric.plugins",
]
"""What a configuration may name by ``class_path``. Everything else is refused before it is imported."""


def restrict_imports() -> None:
    """Let configurations name nothing but ``ALLOWED``."""
    # the allowlist alone would refuse nothing: it takes names out of what is denied
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=ALLOWED,
        instantiate_subclass_spec_in_any=False,
        config_read_mode_fsspec_enabled=False,
    )


def with_recipe(arguments: Sequence[str], commands: Sequence[str]) -> list[str]:
    """The arguments with a configuration in front: the given one, or else the one in the checkpoint.

    In front, so that an option counts wherever it stands; the parser lets whatever comes last win.

    Raises:
        InputError: If there is neither, or the checkpoint can't be used.
    """
    asks_for_help = any(argument == "-h" or re.fullmatch(r"--(.+\.)?help(=.*)?", argument) for argument in arguments)
    if not arguments or arguments[0] not in commands or asks_for_help:
        return list(arguments)
    scanner = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scanner.add_argument("-c", "--config", nargs="?", action="append", default=[])
    scanner.add_argument("--ckpt_path", nargs="?")
    found, options = scanner.parse_known_args(arguments[1:])
    command, checkpoint = arguments[0], found.ckpt_path
    if None in found.config:
        raise InputError(f"{command}: -c needs the name of a file")
    if not found.config and checkpoint is None:
        raise InputError(
            f"{command} needs a configuration, -c FILE.yaml, or a checkpoint that carries one, --ckpt_path FILE"
        )
    configs = found.config or [yaml.safe_dump(_for(command, read_recipe(Path(checkpoint))))]
    front = [word for config in configs for word in ("--config", config)]
    return [command, *front, *([] if checkpoint is None else ["--ckpt_path", checkpoint]), *options]


def _for(command: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """What a command needs of a recipe; to evaluate, of the training's trainer only what changes the results."""
    if command == "fit":
        return recipe
    part: dict[str, Any] = {
        key: recipe[key] for key in ("seed_everything", "name", "runs", "model", "data") if key in recipe
    }
    given = recipe.get("trainer", {})
    trainer = {"precision": given.get("precision")}
    if command != "predict":
        # our own callbacks measure; Lightning's belong to a training
        trainer["callbacks"] = [
            callback
            for callback in given.get("callbacks") or []
            if str(callback.get("class_path")).partition(".")[0] in _OURS
        ]
    return {**part, "trainer": trainer}


def one_line(message: str, most: int = 400) -> str:
    """An error of the parser as one line: the keys that lead to the fault, then what is wrong."""
    keys: list[str] = []
    faults: list[str] = []
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        key = re.match(r'(?:Parser key|Problem with given class_path|Key) ["\'](.+?)["\']:?\s*(.*)', text)
        denied = re.match(r"Importing '(.+?)' is not allowed", text)
        if denied:
            packages = ", ".join(_OURS)
            faults = [f"a configuration may not name {denied[1]}, only what is in {packages}, torch.nn and lightning"]
            break
        elif key and text.startswith("Parser key"):
            keys.append(key[1])
            faults += [key[2]] if key[2] else []
        elif text and not text.startswith(_NOISE):
            faults.append(text)
    fault = "; ".join(dict.fromkeys(faults)) or " ".join(message.split())
    line = f"{'.'.join(keys)}: {fault}" if keys else fault
    return line if len(line) <= most else f"{line[:most]} ..."


_NOISE = (
    "Does not validate against any",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
    "Problem with given class_path",
)
