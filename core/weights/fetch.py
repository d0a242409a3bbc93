"""Find weights: a local path, a model on the Hugging Face Hub, or a URL with its SHA-256."""

import contextlib
import hashlib
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from http.client import HTTPException
from pathlib import Path
from typing import Any

from core.errors import InputError

from .files import sync
from .formats import weight_files

__all__ = ["cache_folder", "fetch"]

CHUNK = 2**20
TRIES = 4  # connections for one download, each going on where the last one ended
TIMEOUT = 30.0  # seconds without a byte
# what a model needs beside its weights; code is never among it
COMPANIONS = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("vocabulary.json", "vocabulary.txt", "added_tokens.json", "special_tokens_map.json", "open_clip_config.json"),
    *("chat_template.jinja", "chat_template.json"),
    *("README.md", "LICENSE*", "NOTICE*"),
)


def cache_folder() -> Path:
    """Return the folder of downloads: ``$SENSORIUM_CACHE``, or ``sensorium`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("SENSORIUM_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sensorium"


def fetch(
    source: str | Path,
    *,
    sha256: str | None = None,
    revision: str | None = None,
    patterns: Sequence[str] | None = None,
) -> Path:
    """Return a local file or folder for a model, downloading it if need be.

    Args:
        source: a path; the name of a model on the Hub (``owner/name``); or a URL, which may end in ``#sha256=...``.
        sha256: of what the URL gives: nothing else is accepted.
        revision: a branch, tag or commit of the Hub.
        patterns: files to take from the Hub; by default the best of its weights and their configuration.

    Raises:
        InputError: one line: no such file or model, no connection, wrong hash.
    """
    text = str(source)
    if re.match(r"https?://", text):
        url, _, fragment = text.partition("#")
        return _download(url, sha256 or fragment.removeprefix("sha256="))
    path = Path(text).expanduser()
    if text and path.exists():
        return path
    if isinstance(source, Path) or text.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise InputError(
            f"no file, folder or model called {text!r}: expected a path, a model of the Hugging Face Hub "
            "(owner/name), or a URL with its SHA-256"
        )
    return _from_hub(text, revision, patterns)


def _from_hub(name: str, revision: str | None, patterns: Sequence[str] | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hub

    try:
        files = HfApi().list_repo_files(name, revision=revision)
    except (hub.GatedRepoError, hub.RepositoryNotFoundError, hub.RevisionNotFoundError) as error:
        kind = "a revision of it" if isinstance(error, hub.RevisionNotFoundError) else "it"
        raise InputError(
            f"the Hugging Face Hub has no model {name!r} for you, or not {kind}: check the name, "
            "or accept its terms there and log in with `hf auth login`"
        ) from error
    except hub.HFValidationError as error:
        raise InputError(
            f"{name!r} can't be the name of a model on the Hugging Face Hub: expected owner/name"
        ) from error
    except (hub.HTTPError, OSError) as error:
        return _from_hub_cache(name, revision, patterns, error)
    wanted = _wanted(name, files, patterns)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (hub.HTTPError, OSError) as error:
        raise InputError(f"the download of {name!r} was cut off ({_line(error)}): run it again to go on") from error


def _from_hub_cache(name: str, revision: str | None, patterns: Sequence[str] | None, why: Exception) -> Path:
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=[]))
    except (hub.LocalEntryNotFoundError, OSError) as error:
        offline = "HF_HUB_OFFLINE is set" if isinstance(why, hub.OfflineModeIsEnabled) else _line(why)
        raise InputError(
            f"{name!r} is not in the cache and the Hugging Face Hub can't be asked ({offline}): "
            "connect once, or give the path of a folder"
        ) from error
    _wanted(name, [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()], patterns)
    return folder


def _wanted(name: str, files: Sequence[str], patterns: Sequence[str] | None) -> list[str]:
    """Return the files to take; never code."""
    if patterns is not None:
        chosen = [file for file in files if any(fnmatch(file, pattern) for pattern in patterns)]
        weights = chosen
    else:
        weights = weight_files(files)
        chosen = weights + [file for file in files if any(fnmatch(file, pattern) for pattern in COMPANIONS)]
    if not weights:
        raise InputError(f"{name!r} has no weights that can be read: expected safetensors, .bin or .pt files")
    return sorted({file for file in chosen if not file.endswith((".py", ".so", ".sh"))})


def _download(url: str, sha256: str) -> Path:
    """Return the file of a URL from the cache, or download it into it."""
    from filelock import FileLock

    sha256 = sha256.lower()
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InputError(f"{url} needs its SHA-256 (64 hex digits): add #sha256=... to it")
    name = re.sub(r"[^\w.-]", "_", urllib.parse.unquote(urllib.parse.urlsplit(url).path).rsplit("/", 1)[-1])
    folder = cache_folder() / "files" / sha256
    path = folder / (name.lstrip(".") or "file")
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"can't write to {cache_folder()} ({error.strerror}): set SENSORIUM_CACHE to a folder"
        ) from error
    part = path.with_name(path.name + ".part")
    with FileLock(f"{part}.lock"):  # of several processes one downloads and the others find it done
        if path.exists():
            return path
        resumed = part.exists() and part.stat().st_size > 0
        found = _complete(url, part)
        if found != sha256 and resumed:  # what was there may have been of another file
            part.unlink()
            found = _complete(url, part)
        if found != sha256:
            part.unlink()
            raise InputError(f"{url} has the SHA-256 {found}, expected {sha256}: it is damaged or another file")
        sync(part)
        os.replace(part, path)
        sync(folder)
    return path


def _complete(url: str, part: Path) -> str:
    """Bring the draft to its full length, over several connections if need be, and return its SHA-256."""
    with _progress() as progress:
        task = progress.add_task(part.name.removesuffix(".part"), total=None)
        for left in reversed(range(TRIES)):
            before = part.stat().st_size if part.exists() else 0
            try:
                _receive(url, part, progress, task)
                break
            except urllib.error.HTTPError as error:
                if error.code == 416 and before:  # nothing is left to send
                    break
                raise InputError(f"{url} can't be had: the server says {error.code} {error.reason}") from error
            except (OSError, HTTPException) as error:
                after = part.stat().st_size if part.exists() else 0
                if left == 0 or after == before == 0:
                    kept = f"; the first {after} bytes are kept: run it again to go on" if after else ""
                    raise InputError(f"{url} can't be had ({_line(error)}){kept}") from error
    with part.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _receive(url: str, part: Path, progress: Any, task: Any) -> None:
    """Receive what the draft lacks, over one connection.

    Raises:
        OSError, HTTPException: if the connection ends early.
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "sensorium", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        start = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        if answer.status != 206 or start is None or int(start[1]) != have:
            have = 0  # it sends the whole file
        size = answer.headers.get("Content-Length")
        total = have + int(size) if size and size.isdigit() else None
        progress.update(task, completed=have, total=total)
        with part.open("ab" if have else "wb") as file:
            while data := answer.read(CHUNK):
                file.write(data)
                progress.advance(task, len(data))
        if total is not None and part.stat().st_size < total:
            raise ConnectionError("the connection ended early")


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    from rich import progress as bars
    from rich.console import Console

    columns = (
        *(bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn()),
        *(bars.TransferSpeedColumn(), bars.TimeRemainingColumn()),
    )
    console = Console(stderr=True)  # standard output belongs to the result
    with bars.Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
