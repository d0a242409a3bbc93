"""Texts for pretraining: documents in files, joined to one stream of tokens and cut into rows."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.json_lines import json_lines
from core.data.order import Key
from core.data.sets import ItemSet, Split
from core.data.splits import files_by_split
from core.errors import InputError
from core.train.data import ItemData
from multimodal.chat_rows import read_tokenizer

__all__ = ["TextData", "TextRows", "documents"]

_ENDINGS = (".txt", ".md", ".jsonl", ".ndjson", ".parquet")
_AT_ONCE = 1024  # documents that are tokenised together


class TextRows(ItemSet[list[np.ndarray]]):
    """A stream of tokens in rows; each has one token more than is read, the last to be predicted.

    Args:
        stream: (N,) tokens.
        context: Tokens that are read of a row. What is left at the end is no row.
        where: What the texts are called.

    Raises:
        InputError: If there is not even one row.
    """

    noun = "rows"
    in_memory = True
    classes: list[str] = []  # noqa: RUF012
    labels = None

    def __init__(self, stream: np.ndarray, context: int, where: str) -> None:
        self.stream, self.context, self.where = stream, context, where
        if not len(self):
            raise InputError(f"{where}: {len(stream)} tokens are fewer than a row of {context}, and the one after it")

    def __len__(self) -> int:
        return max(0, len(self.stream) - 1) // self.context

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        return [self.stream[index * self.context : (index + 1) * self.context + 1] for index in indices]

    def name(self, index: int) -> str:
        return f"{self.where}: tokens from {index * self.context}"


class TextExamples:
    """Batches of rows: ``ids`` and ``targets``, (B, L) int64.

    Args:
        rows: The set.
    """

    def __init__(self, rows: ItemSet[list[np.ndarray]]) -> None:
        self.rows = rows

    def __getitems__(self, wanted: list[Key]) -> dict[str, Any]:
        rows, _ = self.rows.take([index for _, index in wanted])
        whole = torch.from_numpy(np.stack(rows).astype(np.int64))
        return {"ids": whole[:, :-1], "targets": whole[:, 1:]}


class TextData(ItemData):
    """A data set of texts, as GPT-2 and its like were trained on it: a row may hold the end of one and the next.

    Each file of ``.txt`` or ``.md`` is a document; of ``.jsonl`` each line has one (``text``), of ``.parquet`` each
    row. After each comes the end token. The tokens of all are kept in memory.

    Args:
        root, batch_size, items: See :class:`core.train.data.ItemData`; ``root`` may be one file.
        tokenizer: A ``tokenizer.json``, or a folder with one.
        end: The token that ends a document.
        context: Tokens of a row.
        column: Name of the field with the text.
    """

    def __init__(
        self,
        root: str,
        tokenizer: str,
        end: str = "<|endoftext|>",
        context: int = 1024,
        column: str = "text",
        batch_size: int = 32,
        **items: Any,
    ) -> None:
        super().__init__(root, batch_size, **items)
        if context < 1:
            raise InputError(f"context {context}: a row has at least one token")
        self.tokenizer = read_tokenizer(tokenizer)
        self.context = context
        self.column = column
        found = self.tokenizer.token_to_id(end)
        if found is None:
            raise InputError(
                f"{tokenizer}: the tokenizer has no token {end}: name the one that ends a text, --data.end"
            )
        self.end = int(found)

    @property
    def vocab(self) -> int:
        """Tokens that the tokenizer knows."""
        return int(self.tokenizer.get_vocab_size())

    def _read(self, split: Split) -> TextRows | None:
        if not self.root.exists():
            raise InputError(f"{self.root}: no such file or folder; expected texts: {', '.join(_ENDINGS)}")
        files = files_by_split(self.root, _ENDINGS).get(split, [])
        if not files:
            return None
        kind = np.uint16 if self.vocab <= 1 << 16 else np.uint32
        parts: list[np.ndarray] = []
        some: list[str] = []
        for text in (text for path in files for text in documents(path, self.column)):
            some.append(text)
            if len(some) == _AT_ONCE:
                parts.append(self._tokens(some, kind))
                some = []
        return TextRows(np.concatenate([*parts, self._tokens(some, kind)]), self.context, str(self.root))

    def _tokens(self, texts: list[str], kind: Any) -> np.ndarray:
        found = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return np.array([token for each in found for token in [*each.ids, self.end]], kind)

    def _examples(self, items: ItemSet[Any], training: bool) -> TextExamples:
        return TextExamples(items)


def documents(path: Path, column: str = "text") -> Iterator[str]:
    """The texts in a file.

    Raises:
        InputError: If it can't be read, or a line or row has no text.
    """
    if path.suffix in (".txt", ".md"):
        try:
            yield path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not text in UTF-8 ({error})") from error
        return
    for where, text in _cells(path, column):
        if not isinstance(text, str):
            raise InputError(f"{where}: has no text in {column!r}; name the field: --data.column")
        yield text


def _cells(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    if path.suffix != ".parquet":
        for number, row in json_lines(path, f'{{"{column}": "..."}}'):
            yield f"{path}: line {number}", row.get(column)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        if column not in file.schema_arrow.names:
            raise InputError(f"{path}: has no column {column!r}, but {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(columns=[column], use_threads=False):
            yield from ((str(path), text) for text in batch.column(0).to_pylist())
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: not a parquet file, or damaged ({' '.join(str(error).split())})") from error
