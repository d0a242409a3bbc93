"""Chats as plain data: checked before anything is made of them, so that nothing is silently left out.

A message is ``{"role": "user", "content": "..."}``, or has a list of parts for content: ``{"type": "text", "text":
"..."}``, and ``{"type": "image", ...}`` or ``{"type": "image_url", "image_url": {"url": ...}}`` for pictures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import InputError

__all__ = ["MEDIA", "ROLES", "Message", "checked", "media", "plain"]

Message = Mapping[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
MEDIA = ("image", "image_url", "video", "audio")


def checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the messages as dicts without the keys that are None, for a template; `image_url` becomes `image`.

    Raises:
        InputError: if there are none, a role is unknown, a message or a part of one is empty or of no known kind.
    """
    if isinstance(messages, Mapping | str) or not isinstance(messages, Sequence):
        raise InputError("a chat is a list of messages: expected [{'role': 'user', 'content': '...'}]")
    if not messages:
        raise InputError("the chat has no messages: expected one of the user at least")
    return [_message(message, f"message {number}") for number, message in enumerate(messages, 1)]


def media(messages: Sequence[Message], kinds: Sequence[str] = MEDIA) -> list[Message]:
    """Return the parts of a chat that are pictures, films or sounds, in order."""
    parts = (m.get("content") for m in messages)
    listed = [part for content in parts if isinstance(content, list | tuple) for part in content]
    return [part for part in listed if isinstance(part, Mapping) and part.get("type") in kinds]


def plain(value: Any) -> Any:
    """Return data that a template may see: JSON types only; pictures and tensors become the name of their type."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return f"<{type(value).__name__}>"


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InputError(f"{where} is a {type(message).__name__}: expected {{'role': ..., 'content': ...}}")
    given = {str(key): value for key, value in message.items() if value is not None}
    role = given.get("role")
    if role not in ROLES:
        raise InputError(f"{where} has the role {role!r}: expected one of {', '.join(ROLES)}")
    where = f"{where} ({role})"
    content = given.get("content")
    if isinstance(content, str):
        if not content.strip() and not given.get("tool_calls"):
            raise InputError(f"{where} is empty: write something, or leave it out")
    elif isinstance(content, list | tuple):
        if not content:
            raise InputError(f"{where} is empty: write something, or leave it out")
        given["content"] = [_part(part, f"part {number} of {where}") for number, part in enumerate(content, 1)]
    elif content is not None:
        raise InputError(f"{where} has a {type(content).__name__} for content: expected a text or a list of parts")
    elif not given.get("tool_calls"):
        raise InputError(f"{where} has no content: expected a text or a list of parts")
    return given


def _part(part: Any, where: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise InputError(f"{where} is a {type(part).__name__}: expected {{'type': 'text', 'text': '...'}}")
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str) or not part["text"].strip():
            raise InputError(f"{where} is empty: expected a text, or leave it out")
        return dict(part)
    if kind not in MEDIA:
        raise InputError(f"{where} is of the type {kind!r}: expected text, {', '.join(MEDIA)}")
    if kind != "image_url":
        return dict(part)
    url = part.get("image_url")
    url = url.get("url") if isinstance(url, Mapping) else url
    if not isinstance(url, str) or not url:
        raise InputError(f"{where} has no URL: expected {{'type': 'image_url', 'image_url': {{'url': ...}}}}")
    return {"type": "image", "image": url}
