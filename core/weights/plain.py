"""Configs as plain data: a dataclass from JSON, checked."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from core.errors import InputError

__all__ = ["from_plain"]

T = TypeVar("T")


def from_plain(kind: type[T], data: Mapping[str, Any], what: str = "") -> T:
    """Make a dataclass of plain data, the reverse of :func:`dataclasses.asdict`.

    Args:
        kind: a dataclass; its fields may be dataclasses, classes that dataclasses inherit from, and tuples.
        data: what JSON gave.
        what: name for messages, by default that of the class.

    Raises:
        InputError: if a key is unknown or missing, a value is of another type, or the class refuses it.
    """
    what = what or kind.__name__
    if not isinstance(data, Mapping):
        raise InputError(f"{what} should be a set of fields, not {data!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(map(str, data.keys() - fields.keys()))
    if unknown:
        raise InputError(f"{what} has no field {unknown[0]!r}: expected {', '.join(fields)}")
    needed = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and name not in data
    ]
    if needed:
        raise InputError(f"{what} lacks the field {needed[0]!r}")
    hints = typing.get_type_hints(kind)
    values = {name: _value(hints[name], value, f"{what}.{name}") for name, value in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise InputError(f"{what}: {error}") from error


def _value(hint: Any, value: Any, what: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value, what)
    either = origin in (typing.Union, types.UnionType)
    records = [kind for option in (inner if either else (hint,)) for kind in _records(option)]
    if records and isinstance(value, Mapping):
        # the one whose fields these are; if none has them all, what is wrong is said of the first
        fits = (kind for kind in records if value.keys() <= {field.name for field in dataclasses.fields(kind)})
        return from_plain(next(fits, records[0]), value, what)
    if either:
        if value is None and type(None) in inner:
            return None
        options = [option for option in inner if option is not type(None)]
        return _value(options[0], value, what) if len(options) == 1 else value
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if inner[1:] == (...,) else list(inner)
        if len(kinds) == len(value):
            return tuple(_value(kind, item, what) for kind, item in zip(kinds, value, strict=True))
    if origin is typing.Literal and value in inner:
        return value
    if isinstance(hint, type) and origin is None:
        kinds_allowed = (int, float) if hint is float else (hint,)
        if isinstance(value, kinds_allowed) and (hint is bool or not isinstance(value, bool)):
            return value
    elif origin not in (tuple, typing.Literal):
        return value
    raise InputError(f"{what} should be {getattr(hint, '__name__', hint)}, not {value!r}")


def _records(hint: Any) -> list[type]:
    """The dataclasses that a type stands for: itself, or those that inherit from it."""
    if not isinstance(hint, type) or hint.__module__ == "builtins":
        return []
    return [hint] if dataclasses.is_dataclass(hint) else list(filter(dataclasses.is_dataclass, hint.__subclasses__()))
