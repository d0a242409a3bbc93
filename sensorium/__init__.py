"""Sensorium: one set of Transformer blocks behind every model that sees, hears, reads and draws.

    >>> import sensorium
    >>> sensorium.load("tiny.en")("talk.wav").text

Everything heavy is imported at the first call, so that ``import sensorium`` stays instant.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensorium.models import list_models, load

__all__ = ["__version__", "list_models", "load"]

_LAZY = {"load": "sensorium.models", "list_models": "sensorium.models"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sensorium")
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sensorium' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
