"""Features of many picture files, in chunks that an interrupted run doesn't compute again."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.images import read_image
from core.errors import InputError
from core.weights.files import read_json, replacing

from .preprocess import Preparation

__all__ = ["Chunk", "Embedder", "Job"]

CHUNK = 512  # images that are kept together: what an interruption may cost


@dataclass(frozen=True)
class Chunk:
    """The result for some files.

    Attributes:
        features: (N, D) float32; zeros for files that can't be read.
        good: (N,) bool, which could be.
        errors: one line for each that couldn't, in order.
    """

    features: np.ndarray
    good: np.ndarray
    errors: tuple[str, ...]


class Embedder:
    """Maps picture files to features.

    Args:
        embed: maps prepared pictures (B, C, H, W), on the device and in the type that it computes in, to (B, width).
        width: of the features.
        prepare: makes a prepared picture of a picture.
        batch_size: pictures in one pass.
        device, dtype: where and in which type ``embed`` wants its input.
        readers: threads that read and prepare pictures ahead.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        width: int,
        prepare: Preparation,
        batch_size: int = 32,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        readers: int = 4,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: must be at least 1")
        self.embed, self.width = embed, width
        self.prepare = prepare
        self.batch_size = batch_size
        self.device, self.dtype = device, dtype
        self.readers = readers

    def __call__(self, paths: Sequence[Path]) -> Iterator[Chunk]:
        """Embed files, batch by batch, reading the next while one is computed."""
        batches = [paths[start : start + self.batch_size] for start in range(0, len(paths), self.batch_size)]
        with ThreadPoolExecutor(self.readers) as pool:
            ahead = [pool.map(self._read, batch) for batch in batches[:2]]
            for number in range(len(batches)):
                found = list(ahead.pop(0))
                if number + 2 < len(batches):
                    ahead.append(pool.map(self._read, batches[number + 2]))
                yield self._embed(found)

    def _read(self, path: Path) -> Tensor | str:
        """A prepared picture, or what is wrong with the file."""
        try:
            return self.prepare(read_image(path))
        except (InputError, OSError) as error:
            return " ".join(str(error).split())

    @torch.inference_mode()
    def _embed(self, found: list[Tensor | str]) -> Chunk:
        good = np.array([isinstance(item, Tensor) for item in found])
        errors = tuple(item for item in found if isinstance(item, str))
        features = np.zeros((len(found), self.width), np.float32)
        images = [item for item in found if isinstance(item, Tensor)]
        if images:
            batch = torch.stack(images).to(self.device, self.dtype)
            features[good] = self.embed(batch).float().cpu().numpy()
        return Chunk(features, good, errors)


class Job:
    """The features of a list of files, kept by chunks in a folder until all are there.

    Args:
        folder: of the chunks; made, and removed by :meth:`close`.
        paths: the files.
        about: what the result depends on beside the files' contents: model, feature, precision.

    Raises:
        InputError: if the folder holds the chunks of another job.
    """

    def __init__(self, folder: Path, paths: Sequence[Path], about: dict[str, Any]) -> None:
        self.folder = folder
        self.paths = list(paths)
        told = {"paths": _digest(self.paths), "images": len(self.paths), **about}
        note = folder / "job.json"
        if note.exists():
            if read_json(note) != json.loads(json.dumps(told)):
                raise InputError(
                    f"{folder} holds the unfinished result of other images or settings: go on with those, or remove it"
                )
        else:
            with replacing(note) as draft:
                draft.write_text(json.dumps(told, indent=1), encoding="utf-8")

    def __len__(self) -> int:
        return -(-len(self.paths) // CHUNK)

    def run(self, embed: Embedder, progress: Callable[[Chunk], None]) -> None:
        """Compute what isn't there; ``progress`` is told of every part, also of those that were there."""
        for number in range(len(self)):
            path = self._path(number)
            if path.exists():
                progress(self.chunk(number))
                continue
            parts = []
            for part in embed(self.paths[number * CHUNK : (number + 1) * CHUNK]):
                parts.append(part)
                progress(part)
            whole = {
                "features": np.concatenate([part.features for part in parts]),
                "good": np.concatenate([part.good for part in parts]),
                "errors": np.array([error for part in parts for error in part.errors], dtype=np.str_),
            }
            with replacing(path) as draft, draft.open("wb") as file:
                np.savez(file, **whole)  # type: ignore[arg-type]

    def chunk(self, number: int) -> Chunk:
        """A chunk that was kept."""
        with np.load(self._path(number), allow_pickle=False) as kept:
            return Chunk(kept["features"], kept["good"], tuple(map(str, kept["errors"])))

    def rows(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """The files that could be read, and their features (N, D), chunk by chunk."""
        for number in range(len(self)):
            chunk = self.chunk(number)
            names = self.paths[number * CHUNK : (number + 1) * CHUNK]
            yield [str(name) for name, good in zip(names, chunk.good, strict=True) if good], chunk.features[chunk.good]

    def close(self) -> None:
        """Remove the chunks."""
        for number in range(len(self)):
            self._path(number).unlink(missing_ok=True)
        (self.folder / "job.json").unlink(missing_ok=True)
        self.folder.rmdir()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def _digest(paths: Sequence[Path]) -> str:
    """A hash of the files' names, sizes and times: files that were exchanged are another job."""
    found = hashlib.sha256()
    for path in paths:
        state = path.stat() if path.exists() else None
        found.update(f"{path}\0{(state.st_size, state.st_mtime_ns) if state else None}\n".encode())
    return found.hexdigest()
