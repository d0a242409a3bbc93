"""``sensorium models``: the names that ``--model`` and ``sensorium.load`` know."""

from typing import Annotated

import typer

__all__ = ["models"]


def models(family: Annotated[str | None, typer.Argument(help="only this family, for example whisper")] = None) -> None:
    """List the models that are known by name."""
    from sensorium.models import list_models

    for name in list_models(family):
        print(name)
