"""Strict name tables that work both ways.

A table is data: ``their name pattern -> ours``, where ours is a name pattern, a :class:`~core.weights.rules.Rule` for
tensors that are cut or shaped differently, a :class:`~core.weights.rules.Derived` for those that hold nothing new, or
None for those that are dropped on purpose. ``{i}`` (one letter) stands for a number, ``{leaf}`` (a word) for one part
of a name, such as weight or bias, and ``{path}`` for any number of parts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.errors import InputError

from .patterns import Pattern
from .rules import Derived, Rename, Rule
from .source import Source

__all__ = ["Packing", "Plan", "Rules", "Table", "build", "check", "load_into", "nested"]

M = TypeVar("M", bound=nn.Module)
Rules = Mapping[str, str | Rule | Derived | None]

SHOWN = 4  # names in an error, of each kind


class Packing(Protocol):
    """How a format stores a float tensor as integers with a companion tensor."""

    suffix: str

    def unpack(self, packed: Tensor, companion: Tensor) -> Tensor:
        """Return the float tensor."""
        ...

    def pack(self, tensor: Tensor, dtype: torch.dtype, companion: Tensor | None) -> tuple[Tensor, Tensor]:
        """Undo :meth:`unpack`, with the companion that it had if that still fits."""
        ...


class _Line(NamedTuple):
    theirs: Pattern
    rule: Rule | Derived | None
    ours: tuple[Pattern, ...]


class Move(NamedTuple):
    """A rule at work on one tensor of theirs."""

    theirs: str
    pattern: str
    rule: Rule
    ours: tuple[str, ...]


class Table:
    """Names of theirs and what they are here.

    Args:
        name: of the format, for messages and provenance.
        rules: see the module.
        packing: how the format stores quantised tensors.

    Raises:
        ValueError: if a rule has other placeholders on its two sides.
    """

    def __init__(self, name: str, rules: Rules, packing: Packing | None = None) -> None:
        self.name = name
        self.rules = rules
        self.packing = packing
        self._lines: list[_Line] = []
        for text, given in rules.items():
            rule = Rename(given) if isinstance(given, str) else given
            theirs = Pattern(text)
            ours = tuple(map(Pattern, rule.ours)) if isinstance(rule, Rule) else ()
            if any(pattern.places != theirs.places for pattern in ours):
                raise ValueError(f"table {name}: {text!r} and {given!r} have different placeholders")
            self._lines.append(_Line(theirs, rule, ours))

    def load(self, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate tensors of theirs to ours.

        Raises:
            InputError: if a tensor has no rule, or does not fit it.
        """
        plan = Plan(self, theirs)
        plan.shapes()
        _refuse(f"these tensors do not fit the table {self.name!r}", unexpected=plan.unknown, wrong=plan.wrong)
        return dict(plan.tensors())

    def export(self, ours: Mapping[str, Tensor], source: Source | None = None) -> dict[str, Tensor]:
        """Translate tensors of ours to theirs.

        Args:
            ours: e.g. a model's ``state_dict()``.
            source: of the weights when they were imported; they leave with its dtypes, scales and tied tensors.

        Raises:
            InputError: if a tensor has no rule, or a part of a fused one is missing.
        """
        groups: dict[str, tuple[_Line, dict[int, str]]] = {}
        unknown = []
        for name in ours:
            found = self._from_ours(name)
            if found is None:
                unknown.append(name)
            else:
                line, part, places = found
                groups.setdefault(line.theirs.fill(places), (line, {}))[1][part] = name
        missing = [
            f"part {part + 1} of {theirs}"
            for theirs, (line, parts) in groups.items()
            for part in range(len(line.ours))
            if part not in parts
        ]
        _refuse(f"these tensors can't be written by the table {self.name!r}", missing=missing, unexpected=unknown)
        out: dict[str, Tensor] = {}
        for theirs, (line, parts) in groups.items():
            assert isinstance(line.rule, Rule)
            tensor = line.rule.export(*(ours[parts[i]].detach() for i in range(len(parts))))
            self._put(out, theirs, line.theirs.text, tensor, source)
        for theirs, line, of in self._derived(list(out)):
            if source is None or theirs in source.made:
                assert isinstance(line.rule, Derived)
                tensor = line.rule.make(None if of is None else out[of])
                out[theirs] = tensor if source is None else tensor.to(source.dtype_of(theirs, line.theirs.text))
                if self.packing is not None and of is not None and of + self.packing.suffix in out:
                    out[theirs + self.packing.suffix] = out[of + self.packing.suffix]
        return {name: tensor.contiguous() for name, tensor in out.items()}

    def theirs(self, name: str) -> str:
        """Return what a tensor of ours is called by them, or "nothing"."""
        found = self._from_ours(name)
        return "nothing" if found is None else found[0].theirs.fill(found[2])

    def find(self, name: str) -> tuple[_Line, dict[str, str]] | None:
        """Return the line for a tensor of theirs and what its placeholders stand for, or None.

        Raises:
            ValueError: if two lines fit, which is a mistake in the table.
        """
        found = [(line, places) for line in self._lines if (places := line.theirs.match(name)) is not None]
        if len(found) > 1:
            raise ValueError(f"table {self.name}: {name!r} fits {[line.theirs.text for line, _ in found]}")
        return found[0] if found else None

    def _from_ours(self, name: str) -> tuple[_Line, int, dict[str, str]] | None:
        found = [
            (line, part, places)
            for line in self._lines
            for part, pattern in enumerate(line.ours)
            if (places := pattern.match(name)) is not None
        ]
        if len(found) > 1:
            raise ValueError(f"table {self.name}: our {name!r} fits {[line.theirs.text for line, _, _ in found]}")
        return found[0] if found else None

    def _derived(self, names: list[str]) -> Iterator[tuple[str, _Line, str | None]]:
        """Yield the derived tensors that go with those of theirs: name, line, and the name that it follows from."""
        for line in self._lines:
            if isinstance(line.rule, Derived) and line.rule.of is None:
                yield line.theirs.text, line, None
            elif isinstance(line.rule, Derived) and line.rule.of is not None:
                of = Pattern(line.rule.of)
                for name in names:
                    if (places := of.match(name)) is not None:
                        yield line.theirs.fill(places), line, name

    def _put(self, out: dict[str, Tensor], name: str, pattern: str, tensor: Tensor, source: Source | None) -> None:
        if source is None:
            out[name] = tensor
            return
        dtype = source.dtype_of(name, pattern)
        if self.packing is None or dtype.is_floating_point or not tensor.is_floating_point():
            out[name] = tensor.to(dtype)
            return
        companion = name + self.packing.suffix
        out[name], out[companion] = self.packing.pack(tensor, dtype, source.kept.get(companion))


class Plan:
    """A table applied to the tensors of one checkpoint; nothing is computed before :meth:`tensors`.

    Attributes:
        moves: from theirs to ours.
        unknown: tensors that the table doesn't know.
        wrong: tensors that don't fit their rule, with the reason; complete after :meth:`shapes`.
    """

    def __init__(self, table: Table, theirs: Mapping[str, Tensor]) -> None:
        self.table = table
        self.theirs = theirs
        self.kept = {name: theirs[name] for name in theirs if self._companion(name)}
        self.moves: list[Move] = []
        self.unknown: list[str] = []
        self.wrong: list[str] = []
        self._made: dict[str, str] = {}
        for name in theirs:
            if name in self.kept:
                continue
            found = table.find(name)
            if found is None:
                self.unknown.append(name)
                continue
            line, places = found
            if isinstance(line.rule, Derived):
                self._made[name] = line.theirs.text
                self._judge_derived(name, line.rule, places)
            elif line.rule is not None:
                ours = tuple(pattern.fill(places) for pattern in line.ours)
                self.moves.append(Move(name, line.theirs.text, line.rule, ours))

    def shapes(self) -> dict[str, tuple[str, Tensor]]:
        """Return for each of our tensors the name of theirs and an empty tensor of its shape and dtype."""
        found: dict[str, tuple[str, Tensor]] = {}
        for move in self.moves:
            try:
                parts = move.rule.load(self._tensor(move.theirs, device="meta"))
                self._judge(move.theirs, move.rule.flaw(self.theirs[move.theirs]))
            except (ValueError, RuntimeError) as error:
                self._judge(move.theirs, str(error).splitlines()[0])
                continue
            for name, part in zip(move.ours, parts, strict=True):
                if name in found:
                    self._judge(move.theirs, f"is {name}, and so is {found[name][0]}")
                found[name] = move.theirs, part
        return found

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield our tensors, one by one."""
        for move in self.moves:
            yield from zip(move.ours, move.rule.load(self._tensor(move.theirs)), strict=True)

    def source(self) -> Source:
        """Return what must be remembered for the way back."""
        patterns = {move.theirs: move.pattern for move in self.moves} | self._made
        return Source.of(self.table.name, self.theirs, patterns, self._made, self.kept)

    def _companion(self, name: str) -> bool:
        packing = self.table.packing
        if packing is None or not name.endswith(packing.suffix):
            return False
        packed = self.theirs.get(name.removesuffix(packing.suffix))
        return packed is not None and not packed.is_floating_point()

    def _tensor(self, name: str, device: str | None = None) -> Tensor:
        def get(name: str) -> Tensor:
            tensor = self.theirs[name]
            return tensor if device is None else torch.empty_like(tensor, device=device)

        packing = self.table.packing
        if packing is None or name + packing.suffix not in self.kept:
            return get(name)
        return packing.unpack(get(name), get(name + packing.suffix))

    def _judge_derived(self, name: str, rule: Derived, places: Mapping[str, str]) -> None:
        of = "" if rule.of is None else Pattern(rule.of).fill(places)
        self._judge(name, rule.flaw(self.theirs[name], self.theirs.get(of)))
        packing = self.table.packing
        if packing is not None and name + packing.suffix in self.kept:
            scale = name + packing.suffix
            self._judge(scale, rule.flaw(self.theirs[scale], self.theirs.get(of + packing.suffix)))

    def _judge(self, name: str, flaw: str | None) -> None:
        if flaw is not None:
            self.wrong.append(f"{name} {flaw}")


def nested(rules: Rules, theirs: str, ours: str) -> dict[str, str | Rule | Derived | None]:
    """Return the rules of a part for the model that it is in.

    Args:
        rules: of the part.
        theirs, ours: what stands before its names there and here.
    """
    moved: dict[str, str | Rule | Derived | None] = {}
    for name, rule in rules.items():
        if isinstance(rule, str):
            moved[theirs + name] = ours + rule
        elif isinstance(rule, Derived):
            moved[theirs + name] = inner = copy(rule)
            inner.of = None if rule.of is None else theirs + rule.of
        else:
            moved[theirs + name] = None if rule is None else rule.within(ours)
    return moved


def check(model: nn.Module, table: Table, theirs: Mapping[str, Tensor]) -> Plan:
    """See that a checkpoint fits a model, which may be on the meta device.

    Raises:
        InputError: one line that lists what is missing, unexpected and wrong, in their names and ours.
    """
    plan = Plan(table, theirs)
    target = model.state_dict()
    given = plan.shapes()
    for name, (source, tensor) in given.items():
        if name in target and tensor.shape != target[name].shape:
            shapes = f"{tuple(tensor.shape)}, expected {tuple(target[name].shape)}"
            plan.wrong.append(f"{source} gives {name} the shape {shapes}")
        elif name in target and tensor.is_floating_point() != target[name].is_floating_point():
            plan.wrong.append(f"{source} gives {name} the dtype {tensor.dtype}, expected {target[name].dtype}")
    _refuse(
        f"the weights do not fit {type(model).__name__} (names of {table.name})",
        missing=[f"{table.theirs(name)} (our {name})" for name in target if name not in given],
        unexpected=plan.unknown + [f"{given[name][0]} (our {name})" for name in given if name not in target],
        wrong=plan.wrong,
    )
    return plan


def load_into(
    model: nn.Module, table: Table, theirs: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None
) -> Source:
    """Copy a checkpoint into a model; all names, shapes and kinds are checked before anything changes.

    Args:
        model: takes the values in its own dtypes.
        table: translates the names.
        theirs: tensors of the checkpoint.
        meta: plain data to keep in the source.

    Returns:
        What :meth:`Table.export` needs to write the weights back as they came.

    Raises:
        InputError: as :func:`check`.
    """
    plan = check(model, table, theirs)
    target = model.state_dict()
    with torch.no_grad():
        for name, tensor in plan.tensors():
            target[name].copy_(tensor)
    return replace(plan.source(), meta=dict(meta or {}))


def build(
    make: Callable[[], M], table: Table, theirs: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None
) -> tuple[M, Source]:
    """Make a model for a checkpoint and fill it.

    The model is made on the meta device and checked first: a config may claim any size, a file has only so many bytes.

    Args:
        make: makes the model.
        table, theirs, meta: as in :func:`load_into`.

    Raises:
        InputError: if the config makes no model, or the weights do not fit it.
    """
    try:
        with torch.device("meta"), _Undrawn():
            empty = make()
    except InputError:
        raise
    # sizes that are impossible or contradict each other
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the config of these weights makes no model: {reason}") from error
    check(empty, table, theirs)
    # where the file holds every tensor, drawing random ones first would take longer than reading it
    model = empty.to_empty(device="cpu") if _comes_whole(empty) else make()
    return model, load_into(model, table, theirs, meta)


class _Undrawn(TorchFunctionMode):
    """Draws no normal numbers: on the meta device PyTorch would import its compiler for that, which takes 1.7 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, nn.init.normal_):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _comes_whole(model: nn.Module) -> bool:
    """Whether all tensors that a model holds are in its ``state_dict()``."""
    saved = model.state_dict().keys()
    tensors = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    loose = any(isinstance(value, Tensor) for module in model.modules() for value in vars(module).values())
    return tensors <= saved and not loose


def _refuse(what: str, **lists: Iterable[str]) -> None:
    """Raise one InputError for all lists that aren't empty."""
    found = {kind: list(names) for kind, names in lists.items()}
    parts = []
    for kind, names in found.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            parts.append(f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{more}")
    if parts:
        raise InputError(f"{what}: {'; '.join(parts)}")
