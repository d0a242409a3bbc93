"""Text files with one thing on a line."""

from pathlib import Path

from core.errors import InputError

__all__ = ["read_lines"]


def read_lines(file: Path) -> list[str]:
    """Return the lines that aren't blank (InputError if there are none, or the file is no text in UTF-8)."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text in UTF-8: expected one entry on a line") from error
    if not lines:
        raise InputError(f"{file} is empty: expected one entry on a line")
    return lines
