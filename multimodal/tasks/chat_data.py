"""Chats for training and evaluation: a LightningDataModule over any format of chats."""

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.data.chats import ChatFiles, ChatFormat, Told
from core.data.lengths import LengthOrder
from core.data.order import BatchOrder, Key, keys
from core.data.sets import ItemSet, Split
from core.errors import InputError
from core.train.data import ItemData
from multimodal.chat_rows import ChatWriter, Row, packed, packed_length, read_tokenizer
from multimodal.chat_template import ChatTemplate
from multimodal.tasks.seeing import Seeing

__all__ = ["ChatData", "ChatExamples", "EncodedChats", "picture_number", "shown"]

_MOST = 1 << 10  # pictures of a chat
_KEPT = 1 << 25  # tokens that stay in memory, 8 bytes each


class EncodedChats(ItemSet[list[Row]]):
    """Chats as rows of tokens.

    One that is too long, or has a message that is not as it must be, is one that can't be read. Where the chats are in
    memory their tokens stay there too, up to a limit: writing a chat by its template takes longer than reading it.

    Args:
        chats: The set.
        writer: Makes tokens.
        pictures: How they are shown, if there are any.
        context: The most tokens of a chat.
    """

    noun = "chats"

    def __init__(self, chats: ItemSet[Any], writer: ChatWriter, pictures: Seeing | None, context: int) -> None:
        self.chats = chats
        self.writer = writer
        self.pictures = pictures
        self.context = context
        self.classes, self.labels, self.in_memory = [], None, chats.in_memory
        self._kept: dict[int, tuple[array[int], array[int]]] = {}
        self._size = 0  # tokens of these

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}, "_size": 0}

    def __len__(self) -> int:
        return len(self.chats)

    def read(self, indices: Sequence[int]) -> list[Row]:
        rows = []
        for told, index in zip(self.chats.read(indices), indices, strict=True):
            kept = self._kept.get(index)
            row = self._row(told, index) if kept is None else Row(kept[0].tolist(), kept[1].tolist(), told.pictures)
            if self.in_memory and kept is None and self._size + len(row.ids) <= _KEPT:
                self._kept[index] = array("i", row.ids), array("i", row.answers)
                self._size += len(row.ids)
            rows.append(row)
        return rows

    def name(self, index: int) -> str:
        return self.chats.name(index)

    def _row(self, told: Told, index: int) -> Row:
        sizes = self.pictures.sizes(told.pictures) if self.pictures is not None else []
        try:
            row = self.writer(told.fields.get("messages") or [], sizes)
        except InputError as error:
            raise InputError(f"{self.name(index)}: {error}") from error
        if len(row) > self.context:
            raise InputError(
                f"{self.name(index)}: has {len(row)} tokens, the context is {self.context}: shorten it, or raise the "
                "context of data and model"
            )
        if len(told.pictures) > _MOST:
            raise InputError(f"{self.name(index)}: shows {len(told.pictures)} pictures, more than {_MOST}")
        return Row(row.ids, row.answers, told.pictures)


class ChatExamples:
    """Batches of chats, packed into one row: see :func:`multimodal.chat_rows.packed`.

    With pictures there is ``images`` too, (crops of all, C, H, W), in the order of their places.

    Args:
        chats: The set.
        pictures: How they are shown.
        training: Whether they are augmented.
        seed: Seed of the keys.
    """

    def __init__(self, chats: ItemSet[list[Row]], pictures: Seeing | None, training: bool, seed: int = 0) -> None:
        self.chats = chats
        self.pictures = pictures
        self.training = training
        self.seed = seed

    def __getitems__(self, wanted: list[Key]) -> dict[str, Any]:
        rows, _ = self.chats.take([index for _, index in wanted])
        # equal lengths side by side: attention takes them together
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        rows = [rows[place] for place in order]
        batch = packed(rows)
        indices = [wanted[place][1] for place in order]
        return batch | shown(rows, indices, self.pictures, self.training, self.seed, wanted[0][0])


def shown(
    rows: Sequence[Row], indices: Sequence[int], pictures: Seeing | None, training: bool, seed: int, epoch: int
) -> dict[str, Any]:
    """``images`` of the rows, if they have any; `indices` are the rows' numbers, for the keys."""
    images = [image for row in rows for image in row.pictures]
    if not images or pictures is None:
        return {}
    numbers = [picture_number(index, n) for index, row in zip(indices, rows, strict=True) for n in _range(row)]
    return {"images": pictures(images, keys(seed, epoch, np.array(numbers, np.int64)), training)}


def picture_number(index: int, number: int) -> int:
    """A number of its own for a chat's picture."""
    return index * _MOST + number


class ChatData(ItemData):
    """A data set of chats.

    A global batch has ``batch_size`` chats; each process packs its share into one row. Chats that can't be read, have
    no answer or are longer than the context are passed over in training and validation, and listed in
    ``bad_chats.txt``: see :class:`core.train.data.ItemData`.

    Args:
        root, batch_size, items: See :class:`core.train.data.ItemData`.
        tokenizer: A ``tokenizer.json``, or a folder with one.
        template: File with the chat template; by default that of the tokenizer's folder.
        pictures: How they are shown, if the chats have any.
        format: How the data lies there.
        context: The most tokens of a chat.
        batch_tokens: Tokens, the padding of each chat included, in a global batch of chats of about the same length
            (:class:`core.data.lengths.LengthOrder`), at most ``batch_size`` of them, instead of ``batch_size`` of any
            length. Every chat is read for its length first.
        batch_multiple: What the number of chats in these batches is a multiple of; by default the number of processes.
    """

    answers = True
    """Its batches tell which tokens are whose answer."""

    def __init__(
        self,
        root: str,
        tokenizer: str,
        template: str | None = None,
        pictures: Seeing | None = None,
        format: ChatFormat | None = None,
        context: int = 2048,
        batch_size: int = 32,
        batch_tokens: int | None = None,
        batch_multiple: int | None = None,
        **items: Any,
    ) -> None:
        super().__init__(root, batch_size, **items)
        if context < 2:
            raise InputError(f"context {context}: a chat has at least two tokens")
        self.tokenizer_path = Path(tokenizer).expanduser()
        self.pictures = pictures
        self.format = format or ChatFiles()
        self.context = context
        self.batch_tokens = batch_tokens
        self.batch_multiple = batch_multiple
        words = None if pictures is None else pictures.words
        self.writer = ChatWriter(read_tokenizer(tokenizer), _template(self.tokenizer_path, template), words)

    @property
    def vocab(self) -> int:
        """Tokens that the tokenizer knows."""
        return int(self.writer.tokenizer.get_vocab_size())

    def image_token(self) -> int | None:
        """The token that stands for a picture's features; None without pictures."""
        if self.pictures is None:
            return None
        found: int | None = self.writer.tokenizer.token_to_id(self.pictures.words.token)
        if found is None:
            raise InputError(f"{self.tokenizer_path}: the tokenizer has no token {self.pictures.words.token}")
        return found

    def _read(self, split: Split) -> ItemSet[Any] | None:
        found = self.format.open(self.root, split)
        return None if found is None else self._encoded(found)

    def _encoded(self, chats: ItemSet[Any]) -> ItemSet[Any]:
        return EncodedChats(chats, self.writer, self.pictures, self.context)

    def _examples(self, items: ItemSet[Any], training: bool) -> Any:
        return ChatExamples(items, self.pictures, training, self.seed)

    def _length(self, item: Any) -> int:
        """Tokens of what the set gives for one number, in a packed row."""
        return packed_length(item)

    def _training_order(self, items: ItemSet[Any]) -> BatchOrder:
        if self.batch_tokens is None:
            return super()._training_order(items)
        lengths = [self._length(items.read([index])[0]) for index in range(len(items))]
        rank, world = self._place()
        most, multiple = self.batch_size, self.batch_multiple
        return LengthOrder(lengths, self.batch_tokens, self.seed, most=most, multiple=multiple, rank=rank, world=world)


def _template(tokenizer: Path, template: str | None) -> ChatTemplate:
    folder = tokenizer if tokenizer.is_dir() else tokenizer.parent
    found = ChatTemplate.load(folder)
    if template is not None:
        path = Path(template).expanduser()
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected a chat template")
        return ChatTemplate(path.read_text(encoding="utf-8"), **({} if found is None else found.special))
    if found is None:
        raise InputError(f"{folder}: has no chat template; give the file of one: --data.template")
    return found


def _range(row: Row) -> range:
    return range(len(row.pictures))
