"""Files of JSON lines: one object in each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError

__all__ = ["json_lines"]

_MOST = 1 << 31  # bytes of a file


def json_lines(path: Path, example: str = '{"path": ..., "text": ...}') -> list[tuple[int, Mapping[str, Any]]]:
    """Number and fields of each line that is not blank.

    Args:
        path: The file.
        example: What a line looks like, for errors.

    Raises:
        InputError: If the file is too large, not text in UTF-8, or a line is no JSON object.
    """
    found: list[tuple[int, Mapping[str, Any]]] = []
    try:
        if path.stat().st_size > _MOST:
            raise InputError(f"{path}: more than 2 GiB; cut it into several")
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
            if line.strip():
                said = json.loads(line)
                if not isinstance(said, dict):
                    raise InputError(f"{path}: line {number} is no JSON object, such as {example}")
                found.append((number, said))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not text in UTF-8 ({error})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {number} is not JSON ({error.msg}); expected one object a line") from error
    return found
