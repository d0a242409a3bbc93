"""Chats in files: JSON lines or parquet, with their pictures beside them or inside."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from core.data.images import read_image
from core.data.json_lines import json_lines
from core.data.sets import ItemSet, Split
from core.data.splits import files_by_split
from core.errors import InputError

__all__ = ["ChatFiles", "ChatFormat", "Chats", "Told", "chat_of"]

_ENDINGS = (".jsonl", ".ndjson", ".parquet")
_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
EXAMPLE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


class Told(NamedTuple):
    """What a data set holds of a chat.

    Attributes:
        fields: As they are in the file; ``messages`` are OpenAI's.
        pictures: Those that the messages show, in order.
    """

    fields: Mapping[str, Any]
    pictures: list[Any]


class Chats(ItemSet[list[Told]]):
    """Chats that were read; their pictures are read when they are asked for.

    Args:
        root: Folder that pictures which are only named lie in.
        rows: Where each comes from, and its fields.
    """

    noun = "chats"
    classes: list[str] = []  # noqa: RUF012
    labels = None

    def __init__(self, root: Path, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        self.root = root
        self.rows = rows
        self.in_memory = not any(_sources(fields) for _, fields in rows)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: Sequence[int]) -> list[Told]:
        return [self._read(*self.rows[index]) for index in indices]

    def name(self, index: int) -> str:
        return self.rows[index][0]

    def _read(self, where: str, fields: Mapping[str, Any]) -> Told:
        return Told(fields, [self._picture(source, where) for source in _sources(fields)])

    def _picture(self, source: Any, where: str) -> Image.Image:
        if isinstance(source, Mapping):  # as `datasets` writes pictures into parquet
            source = source.get("bytes") or source.get("path")
        if isinstance(source, bytes):
            return read_image(source, name=where)
        if not isinstance(source, str) or not source or "://" in source:
            raise InputError(f"{where}: shows {str(source)[:40]!r}; expected a picture's path below {self.root}")
        place = (self.root / source).resolve()
        if not place.is_relative_to(self.root.resolve()):
            raise InputError(f"{where}: names a file outside of the data set ({source})")
        return read_image(place, name=str(place))


class ChatFormat(ABC):
    """How chats lie on disk, or are made."""

    @abstractmethod
    def open(self, root: Path, split: Split) -> ItemSet[list[Told]] | None:
        """One split; None if there is none (then it may be held out of another).

        Raises:
            InputError: If `root` or a file in it is missing or is not what it should be.
        """


class ChatFiles(ChatFormat):
    """``train.jsonl``, ``val.jsonl``, ``test.jsonl`` (or ``.parquet``) in a folder, or a single such file.

    A line, or row, has ``messages`` (OpenAI's) or ``conversations`` (LLaVA's: ``from``, ``value``). Its pictures are
    named in the messages' parts, or in ``image`` or ``images`` of the line, in the order of ``<image>`` in the text;
    in parquet they may be inside. Rows of preferences have ``chosen`` and ``rejected``, see
    :mod:`multimodal.tasks.preferences`.
    """

    def open(self, root: Path, split: Split) -> Chats | None:
        if not root.exists():
            raise InputError(f"{root}: no such file or folder; expected train.jsonl or .parquet with chats")
        files = files_by_split(root, _ENDINGS)
        if not any(files.values()):
            raise InputError(f"{root}: holds no .jsonl or .parquet file with chats")
        rows = [row for path in files.get(split, []) for row in _rows(path)]
        if not rows:
            return None
        return Chats(root if root.is_dir() else root.parent, [(where, chat_of(row, where)) for where, row in rows])


def chat_of(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a row, with OpenAI's ``messages`` (where it has any) and without what is None.

    Raises:
        InputError: If it has no chat.
    """
    fields = {name: value for name, value in row.items() if value is not None}
    if "messages" not in fields and "conversations" in fields:
        fields["messages"] = [_translated(turn, where) for turn in fields["conversations"]]
    if not {"messages", "chosen"} & fields.keys():
        raise InputError(f"{where} has no chat; expected {EXAMPLE}")
    listed = _listed(fields)
    for name in ("messages", "prompt", "chosen", "rejected"):
        if isinstance(fields.get(name), list):
            fields[name] = [_parted(message) if listed else message for message in fields[name]]
    return fields


def _translated(turn: Any, where: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping) or turn.get("from") not in _ROLES or not isinstance(turn.get("value"), str):
        raise InputError(f'{where}: a turn should be {{"from": "human" or "gpt", "value": "..."}}')
    return {"role": _ROLES[turn["from"]], "content": turn["value"]}


def _parted(message: Any, token: str = "<image>") -> Any:
    """A message with its `<image>` as parts of their own, as LLaVA's files have them in the text."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, str) or token not in content:
        return message
    parts: list[dict[str, Any]] = []
    for number, text in enumerate(content.split(token)):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": text.strip("\n")}] if text.strip() else []
    return {**message, "content": parts}


def _listed(fields: Mapping[str, Any]) -> list[Any]:
    """The pictures in a row's own fields."""
    found = fields.get("images", fields.get("image"))
    return [] if found is None else list(found) if isinstance(found, list | tuple) else [found]


def _sources(fields: Mapping[str, Any]) -> list[Any]:
    """Where the pictures of a row are: in its own fields, or else in the parts of the messages."""
    listed = _listed(fields)
    if listed:
        return listed
    found = []
    for name in ("prompt", "messages", "chosen"):
        messages = fields.get(name)
        for message in messages if isinstance(messages, list) else []:
            content = message.get("content") if isinstance(message, Mapping) else None
            for part in content if isinstance(content, list) else []:
                if isinstance(part, Mapping) and part.get("type") in ("image", "image_url"):
                    source = part.get("image", part.get("image_url", part.get("path")))
                    found.append(source.get("url") if isinstance(source, Mapping) and "url" in source else source)
    return found


def _rows(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    if path.suffix != ".parquet":
        return [(f"{path.name}: line {number}", row) for number, row in json_lines(path, EXAMPLE)]
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, use_threads=False).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: not a parquet file, or damaged ({' '.join(str(error).split())})") from error
    return [(f"{path.name}/{number}", row) for number, row in enumerate(rows)]
