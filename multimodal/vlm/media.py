"""Pictures and films in chats: from whatever they are given as to PIL images."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from core.data.images import read_image
from core.errors import InputError
from multimodal.messages import Message, checked

__all__ = ["MAX_DATA", "frames_of", "image_of", "with_frames"]

MAX_DATA = 64 << 20  # bytes of a picture inside a URL
FRAMES = 8


def with_frames(messages: Sequence[Message], frames: int = FRAMES) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """Return a chat whose messages are lists of texts and pictures, and the pictures, in order.

    A film becomes as many pictures as it has ``frames``, spread evenly over its length.

    Args:
        messages: see :mod:`multimodal.messages`. A picture is a path, a ``data:`` URL, bytes, a PIL image, or an array
            or tensor (H, W, C) uint8 or (C, H, W) float in [0, 1]; a film a path, or a sequence of pictures.
        frames: of a film in a file, where its part does not say.

    Raises:
        InputError: if a message is not as it must be, or a picture can't be read: which one.
    """
    chat, pictures = [], list[Image.Image]()
    for number, message in enumerate(checked(messages), 1):
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        shown: list[dict[str, Any]] = []
        for place, part in enumerate(parts, 1):
            where = f"part {place} of message {number}"
            if part["type"] == "text":
                shown.append(part)
                continue
            if part["type"] == "audio":
                raise InputError(f"{where} is a sound, and this model has no ear: expected texts, pictures and films")
            found = [image_of(_source(part, "image", where), where)] if part["type"] == "image" else []
            if part["type"] == "video":
                found = frames_of(_source(part, "video", where), int(part.get("frames", frames)), where)
            pictures += found
            shown += [{"type": "image"} for _ in found]
        chat.append({**message, "content": shown})
    return chat, pictures


def image_of(source: Any, where: str = "the image") -> Image.Image:
    """Return a picture, upright and in RGB.

    Raises:
        InputError: if it can't be read, or is a URL: nothing is downloaded unasked.
    """
    if isinstance(source, Image.Image):
        return source if source.mode == "L" else source.convert("RGB")
    if isinstance(source, bytes):
        return read_image(source, name=where)
    if isinstance(source, Tensor | np.ndarray):
        return _of_numbers(source, where)
    if isinstance(source, str) and source.startswith("data:"):
        return read_image(_decoded(source, where), name=where)
    if isinstance(source, str) and "://" in source:
        raise InputError(f"{where} is at {source[:60]}: nothing is downloaded unasked, fetch it and give the file")
    if isinstance(source, str | Path):
        return read_image(Path(source).expanduser())
    raise InputError(f"{where} is a {type(source).__name__}: expected a path, a data: URL, a PIL image or a tensor")


def frames_of(source: Any, count: int, where: str = "the film") -> list[Image.Image]:
    """Return pictures of a film, spread evenly over it; all of those of a sequence.

    Raises:
        InputError: if it can't be read, or has no pictures.
    """
    if count < 1:
        raise InputError(f"{where}: {count} frames, expected one or more")
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        if not source:
            raise InputError(f"{where} has no frames")
        return [image_of(frame, f"frame {number} of {where}") for number, frame in enumerate(source, 1)]
    if not isinstance(source, str | Path) or "://" in str(source):
        raise InputError(f"{where} is no film: expected the path of a file, or a list of pictures")
    try:
        import av
    except ImportError as error:
        raise InputError(f"{where} is a film, which takes PyAV to read: pip install 'sensorium[media]'") from error
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with av.open(str(path)) as film:
            total = sum(1 for _ in film.decode(video=0))
        count = min(count, total)
        wanted = {round((number + 0.5) * total / count - 0.5) for number in range(count)}
        with av.open(str(path)) as film:
            return [f.to_image() for number, f in enumerate(film.decode(video=0)) if number in wanted]
    # decoders raise errors of every kind
    except Exception as error:
        raise InputError(f"{path}: not a film that can be read ({' '.join(str(error).split())})") from error


def _source(part: Mapping[str, Any], kind: str, where: str) -> Any:
    for name in (kind, "path", "url"):
        if part.get(name) is not None:
            return part[name]
    raise InputError(f"{where} has no {kind}: expected {{'type': '{kind}', '{kind}': PATH}}")


def _decoded(url: str, where: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InputError(f"{where} is a data: URL that is not in base64: expected data:image/png;base64,...")
    if len(body) > MAX_DATA * 4 // 3:
        raise InputError(f"{where} has more than {MAX_DATA >> 20} MB in its URL: give it as a file")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise InputError(f"{where} is a data: URL with faulty base64 ({error})") from error


def _of_numbers(source: Tensor | np.ndarray, where: str) -> Image.Image:
    x = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
    if x.ndim == 3 and x.dtype.kind == "f" and x.shape[0] in (1, 3):
        x = (x.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)  # (C, H, W) -> (H, W, C)
    if x.dtype != np.uint8 or x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[2] not in (1, 3)):
        raise InputError(
            f"{where} is an array {x.shape} of {x.dtype}: expected (H, W, 3) uint8 or (3, H, W) float in [0, 1]"
        )
    return Image.fromarray(x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x)
