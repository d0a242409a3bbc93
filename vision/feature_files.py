"""Tables of features by file: parquet, csv, npy."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError
from core.weights.files import replacing

__all__ = ["FORMATS", "Rows", "names_beside", "read_features", "write_features"]

Rows = Iterator[tuple[list[str], np.ndarray]]
"""Names, and their features (N, D) float32, part by part."""


def write_features(path: Path, rows: Rows, count: int, width: int, about: dict[str, Any]) -> None:
    """Write a table by the ending of its name; it appears when it is complete.

    ``.parquet``: columns ``path`` and ``embedding`` (a list of fixed size), ``about`` in the metadata under
    ``sensorium``. ``.csv``: columns ``path``, ``0``, ``1``, ... ``.npy``: an array (count, width), and the paths, one a
    line, in :func:`names_beside`.

    Args:
        path: of the table.
        rows: what to write.
        count, width: how many rows and channels there will be.
        about: how the features were made, as plain data.

    Raises:
        InputError: if the name ends otherwise.
    """
    write = FORMATS.get(path.suffix.lower())
    if write is None:
        raise InputError(f"{path}: features are written as {', '.join(FORMATS)}; give a name that ends so")
    write(path, rows, count, width, about)


def read_features(path: Path) -> tuple[list[str], np.ndarray, dict[str, Any]]:
    """Read a ``.parquet`` that :func:`write_features` wrote.

    Returns:
        The names, their features (N, D) float32, and how they were made.

    Raises:
        InputError: if it is no such table, or an empty one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a .parquet made by sensorium embed")
    try:
        table = pq.read_table(path, columns=["path", "embedding"])
        about = json.loads((table.schema.metadata or {}).get(b"sensorium", b"{}"))
        column = table["embedding"].combine_chunks()
        features = column.values.to_numpy().reshape(len(column), -1)
    except (pa.ArrowException, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no table of features: expected a .parquet made by sensorium embed") from error
    if not len(features) or features.dtype != np.float32:
        raise InputError(f"{path} has no features in it")
    return table["path"].to_pylist(), features, about


def names_beside(path: Path) -> Path:
    """Return where the paths of a ``.npy`` are."""
    return path.with_suffix(".paths.txt")


def _parquet(path: Path, rows: Rows, count: int, width: int, about: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.list_(pa.float32(), width)
    said = {"sensorium": json.dumps(about)}
    schema = pa.schema([("path", pa.string()), ("embedding", kind)], metadata=said)
    with replacing(path) as draft, pq.ParquetWriter(draft, schema) as file:
        for names, features in rows:
            flat = pa.array(np.ascontiguousarray(features, np.float32).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, type=kind)
            file.write_table(pa.Table.from_arrays([pa.array(names, pa.string()), column], schema=schema))


def _csv(path: Path, rows: Rows, count: int, width: int, about: dict[str, Any]) -> None:
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", *range(width)])
        for names, features in rows:
            # nine digits tell every float32 from its neighbours
            table.writerows([name, *(f"{v:.9g}" for v in row)] for name, row in zip(names, features, strict=True))


def _npy(path: Path, rows: Rows, count: int, width: int, about: dict[str, Any]) -> None:
    with replacing(names_beside(path)) as names_draft, replacing(path) as draft:
        whole = np.lib.format.open_memmap(draft, "w+", np.float32, (count, width))
        start = 0
        with names_draft.open("w", encoding="utf-8") as file:
            for names, features in rows:
                whole[start : start + len(names)] = features
                start += len(names)
                file.writelines(f"{name}\n" for name in names)
        whole.flush()


FORMATS: dict[str, Callable[[Path, Rows, int, int, dict[str, Any]], None]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".npy": _npy,
}
"""How each ending is written."""
