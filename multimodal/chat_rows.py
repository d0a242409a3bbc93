"""Chats as rows of tokens, and which of these are the assistant's: what supervised training learns from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from core.errors import InputError
from core.nn.packing import packed_tokens
from multimodal.chat_template import ChatTemplate
from multimodal.messages import Message, media
from multimodal.vlm.crops import Picture
from multimodal.vlm.placing import expanded
from multimodal.vlm.words import Words

__all__ = ["IGNORED", "ChatWriter", "Row", "answer_spans", "packed", "packed_length", "read_tokenizer"]

IGNORED = -100  # the target of a token that nothing is learned from
_CHAT, _ROW = 16, 128  # what the lengths of packed chats, and of their row, are multiples of


@dataclass(frozen=True)
class Row:
    """A chat as tokens.

    Attributes:
        ids: all of them.
        answers: of each token the number of the answer that it belongs to, -1 for what others say.
        pictures: what the chat shows, in order, as it was given.
    """

    ids: list[int]
    answers: list[int]
    pictures: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        """Tokens that are read: the last one is only written."""
        return len(self.ids) - 1


class ChatWriter:
    """Writes chats by a template and makes tokens of them.

    Args:
        tokenizer: makes them; whatever the template does not write (a token that begins every text) is not there.
        template: the chat's form.
        words: what stands for a picture; None where there are none.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, words: Words | None = None) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.words = words

    def __call__(self, messages: Sequence[Message], sizes: Sequence[Picture] = ()) -> Row:
        """Return the row of a chat, without its pictures.

        Args:
            messages: see :mod:`multimodal.messages`; some of them the assistant's.
            sizes: of the pictures, as ``words`` wants to know them.

        Raises:
            InputError: if a message is not as it must be, nobody answers, or the pictures are more or fewer than the
                places for them.
        """
        text, spans = answer_spans(self.template, messages)
        if media(messages) and self.words is None:
            raise InputError("the chat shows a picture, but the data says nothing about pictures: give it `pictures`")
        if self.words is not None:
            text, spans = _with_words(text, spans, self.words.token, [self.words.of(size) for size in sizes])
        found = self.tokenizer.encode(text, add_special_tokens=False)
        answers = [-1] * len(found.ids)
        for number, (begin, end) in enumerate(spans):
            for place, (first, last) in enumerate(found.offsets):
                if begin <= first < end and last > first:
                    answers[place] = number
        return Row(found.ids, answers)


def answer_spans(template: ChatTemplate, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
    """Return a chat as text, and where in it the assistant speaks, the end of its turn included.

    An answer is what the template adds to what it writes before it, which ends with the call to answer.

    Raises:
        InputError: if nobody answers, or the template changes what came before an answer once there is one (those of
            models that think do): then the answers can't be found, and a chat should have one at its end.
    """
    chat = template.prepared(messages)
    whole = template.write(chat)
    spans: list[tuple[int, int]] = []
    for number, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        if number == 0:
            raise InputError("the chat begins with an answer: expected a message of the user before it")
        before = template.write(chat[:number], add_generation_prompt=True)
        after = template.write(chat[: number + 1]) if number + 1 < len(chat) else whole
        if not after.startswith(before) or not whole.startswith(after):
            raise InputError(
                f"message {number + 1}: the chat template writes what comes before this answer in another way once "
                "there is more: train on chats that end with their only answer"
            )
        spans.append((len(before), len(after)))
    if not spans:
        raise InputError("nobody answers in this chat: expected a message of the assistant")
    return whole, spans


def packed(rows: Sequence[Row], first: int = 0) -> dict[str, Any]:
    """Return the batch of chats in one row (1, L), each apart from the others.

    ``ids`` and what should follow them, ``targets`` (:data:`IGNORED` where the assistant does not speak); ``answers``,
    the number of the answer that a target belongs to, counted through the batch from ``first``, or -1; and ``tokens``.
    Chats of one length should stand side by side: attention takes them together. Padding rounds each chat and the whole
    row up, so that there are few shapes: oneDNN compiles a kernel for each. It stands behind the chat's own tokens,
    where a causal rule lets nobody see it.

    Raises:
        InputError: if a chat has fewer than two tokens.
    """
    if any(len(row.ids) < 2 for row in rows):
        raise InputError("a chat of fewer than two tokens: there is nothing to learn from it")
    lengths = [packed_length(row) for row in rows]
    lengths[-1] += _rounded(sum(lengths), _ROW) - sum(lengths)
    ids, targets, answers, order = [], [], [], []
    for row, length in zip(rows, lengths, strict=True):
        rest = length - len(row)
        said = [token for token, mine in zip(row.ids, row.answers, strict=True) if mine >= 0] or row.ids
        # the end of an answer is no picture, which would want features
        ids += row.ids[:-1] + said[-1:] * rest
        targets += [token if mine >= 0 else IGNORED for token, mine in zip(row.ids[1:], row.answers[1:], strict=True)]
        targets += [IGNORED] * rest
        answers += [first + mine if mine >= 0 else -1 for mine in row.answers[1:]] + [-1] * rest
        order += [*range(len(row)), *[-1] * rest]
        first += max(row.answers, default=-1) + 1
    tokens = packed_tokens(lengths)._replace(index=torch.tensor(order)[None])
    one: list[Tensor] = [torch.tensor(each)[None] for each in (ids, targets, answers)]
    return {**dict(zip(("ids", "targets", "answers"), one, strict=True)), "tokens": tokens}


def packed_length(row: Row) -> int:
    """Tokens of a chat in a packed row, its padding included."""
    return _rounded(len(row), _CHAT)


def read_tokenizer(path: Path | str) -> Tokenizer:
    """Return the tokenizer of a ``tokenizer.json`` or of a folder that holds one.

    Raises:
        InputError: if there is none, or it can't be read.
    """
    path = Path(path).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a tokenizer of Hugging Face's, tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"{path}: not a tokenizer of Hugging Face's ({' '.join(str(error).split())})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _with_words(
    text: str, spans: Sequence[tuple[int, int]], token: str, words: Sequence[str]
) -> tuple[str, list[tuple[int, int]]]:
    """The text with words for its pictures, and where the spans are then."""
    expanded(text, token, words)  # says which picture is wrong
    moved, parts, at, used = [], [], 0, 0
    length = 0
    for begin, end in [*spans, (len(text), len(text))]:
        for start, stop, mine in ((at, begin, False), (begin, end, True)):
            part = text[start:stop]
            count = part.count(token)
            part = expanded(part, token, words[used : used + count])
            used += count
            if mine:
                moved.append((length, length + len(part)))
            parts.append(part)
            length += len(part)
        at = end
    return "".join(parts), moved[:-1]


def _rounded(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
