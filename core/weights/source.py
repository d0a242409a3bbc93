"""Where weights came from: what must be remembered so that they leave as they came, byte for byte."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["DTYPES", "Source"]

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


@dataclass(frozen=True)
class Source:
    """Provenance of imported weights, in the words of the format that they came in.

    Attributes:
        table: name of the name table that read them.
        dtype: of most tensors.
        dtypes: of the others, by name or by name pattern.
        made: names of the tensors that held nothing new (tied, fixed) and were there.
        meta: what the file said beside its tensors.
        kept: tensors that the model doesn't need and the format does (scales of int8 rows).
    """

    table: str
    dtype: str
    dtypes: dict[str, str] = field(default_factory=dict)
    made: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        table: str,
        tensors: Mapping[str, Tensor],
        patterns: Mapping[str, str],
        made: Iterable[str],
        kept: Mapping[str, Tensor],
    ) -> "Source":
        """Note down the dtypes of tensors.

        Args:
            table: name of the table.
            tensors: theirs.
            patterns: the name pattern that each of the tensors fits.
            made: those of the tensors that hold nothing new.
            kept: see :class:`Source`.
        """
        dtypes = {name: str(tensors[name].dtype).removeprefix("torch.") for name in patterns}
        common = Counter(dtypes.values()).most_common(1)
        dtype = common[0][0] if common else "float32"
        seen: dict[str, set[str]] = {}
        for name, pattern in patterns.items():
            seen.setdefault(pattern, set()).add(dtypes[name])
        # a whole pattern is noted as one, so that an int8 model of any depth takes a dozen lines
        others = {
            pattern if len(seen[pattern]) == 1 else name: dtypes[name]
            for name, pattern in patterns.items()
            if seen[pattern] != {dtype}
        }
        return cls(table, dtype, others, tuple(sorted(made)), kept=dict(kept))

    def dtype_of(self, name: str, pattern: str) -> torch.dtype:
        """Return the dtype in which a tensor of theirs has to leave."""
        return DTYPES[self.dtypes.get(name, self.dtypes.get(pattern, self.dtype))]

    def to_json(self) -> dict[str, Any]:
        """Return all but ``kept`` as plain data."""
        return {
            "table": self.table,
            "dtype": self.dtype,
            "dtypes": self.dtypes,
            "made": list(self.made),
            "meta": self.meta,
        }

    @classmethod
    def from_json(cls, data: Any, kept: Mapping[str, Tensor]) -> "Source":
        """Undo :meth:`to_json`.

        Raises:
            InputError: if it isn't that.
        """
        try:
            dtypes = {str(k): str(v) for k, v in data["dtypes"].items()}
            source = cls(
                str(data["table"]), str(data["dtype"]), dtypes, tuple(data["made"]), dict(data["meta"]), dict(kept)
            )
            unknown = {source.dtype, *dtypes.values()} - DTYPES.keys()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"the provenance of the weights is damaged ({error!r}): import them again") from error
        if unknown:
            raise InputError(f"unknown dtype {sorted(unknown)[0]!r} in the provenance: expected one of {list(DTYPES)}")
        return source
