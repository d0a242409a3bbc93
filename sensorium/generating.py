"""The work behind ``sensorium generate``: pictures are drawn in batches and written one by one."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InputError
from sensorium.made_pictures import read_settings, write_animation, write_picture

if TYPE_CHECKING:
    import numpy as np

    from diffusion.generate import Generator, Settings
    from diffusion.original import Original
    from diffusion.prompting import Asked

__all__ = ["Job", "check_folder", "jobs", "run", "write_sheet"]

SHOWN, COLUMNS = 100, 8  # pictures on a contact sheet, and in a row of it
SLUG = 60  # characters of a text in a file's name
TITLE = 20  # and above its picture
FRAMES = 25  # of a preview


@dataclass(frozen=True)
class Job:
    """A picture to draw: where it goes, what it shows, from which noise, and all that it is made by."""

    place: Path
    asked: "Asked"
    seed: int
    settings: Mapping[str, Any]

    def complete(self, overwrite: bool) -> bool:
        """Whether the picture is there already.

        Raises:
            InputError: if another one is there, and is not to be overwritten.
        """
        if overwrite or not self.place.exists():
            return False
        found = read_settings(self.place)
        if found == self.settings:
            return True
        other = f"{self.place} is there and was made otherwise{_difference(found, self.settings)}"
        raise InputError(f"{other}: --overwrite replaces it, or give another --out")


def check_folder(folder: Path) -> None:
    """See that pictures can be written into a folder, which need not be there yet (InputError if they can't)."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"can't write into {folder}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"can't write into {folder}: nothing may be written there")


def jobs(
    generator: "Generator", wanted: Sequence[tuple["Asked", int]], folder: Path, about: Mapping[str, Any]
) -> list[Job]:
    """What to draw for classes or texts and seeds; `about` is what all pictures have in common."""
    slugs = text_slugs([asked for asked, _ in wanted if isinstance(asked, str)])
    found = []
    for asked, seed in wanted:
        if isinstance(asked, str):
            slug, shown = slugs[asked], {"prompt": asked}
        else:
            slug, shown = _slug(generator.labels, asked), _class(generator.labels, asked)
        found.append(Job(folder / f"{slug}_{seed:04d}.png", asked, seed, {**about, "seed": seed, **shown}))
    return found


def text_slugs(texts: Sequence[str]) -> dict[str, str]:
    """A part of a file's name for each text: its words, and a hash where they are cut or others have the same."""
    plain = {text: re.sub(r"\W+", "_", text.casefold()).strip("_") for text in texts}
    shared = Counter(plain.values())
    return {
        text: slug if 0 < len(slug) <= SLUG and shared[slug] == 1 else f"{slug[:SLUG]}_{_digits(text)}".strip("_")
        for text, slug in plain.items()
    }


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _class(labels: Sequence[str], index: int | None) -> dict[str, Any]:
    return {} if index is None else {"class": _name(labels, index), "class_index": index}


def run(
    generator: "Generator",
    todo: Sequence[Job],
    settings: "Settings",
    guide: "Generator | None" = None,
    original: "Original | None" = None,
    size: tuple[int, int] | None = None,
    preview: Path | None = None,
) -> None:
    """Draw and write pictures under a bar of the steps; what is finished stays when the rest is interrupted."""
    from sensorium.progress import progress_bar

    film = Film(generator) if preview is not None else None
    first = min(settings.batch, len(todo))
    with progress_bar() as progress:
        task = progress.add_task("", total=None)

        def watch(begin: int, state: Any) -> None:
            end = min(begin + settings.batch, len(todo))
            what = f"picture {begin + 1}" if end == begin + 1 else f"pictures {begin + 1} to {end}"
            progress.update(
                task, description=f"{what} of {len(todo)}, step", completed=state.number + 1, total=state.count
            )
            if film is not None and begin < first:
                film.add(state)

        drawn = generator.draw(
            [job.asked for job in todo],
            [job.seed for job in todo],
            settings,
            guide=guide,
            original=original,
            size=size,
            watch=watch,
        )
        for job, picture in zip(todo, drawn, strict=True):
            write_picture(job.place, picture.numpy(), job.settings)
    if film is not None and preview is not None:
        write_animation(preview, film.frames)


class Film:
    """What becomes of a few samples: above what the solver holds, below the picture that the model sees in it."""

    def __init__(self, generator: "Generator") -> None:
        self.generator = generator
        self.frames: list[np.ndarray] = []

    def add(self, state: Any) -> None:
        """Take a state of a solver, or pass over it where there are more than are shown."""
        if state.number + 1 < state.count and (state.number * FRAMES) % state.count >= FRAMES:
            return
        import torch

        from diffusion.sample import as_bytes

        rows = [as_bytes(self.generator.latents.decode(x[:COLUMNS]).float().cpu()) for x in (state.x, state.clean)]
        frame = torch.cat([torch.cat(list(row), 1) for row in rows])  # (2 H, B W, C)
        self.frames.append(frame.expand(*frame.shape[:2], 3).numpy())


def write_sheet(path: Path, made: Sequence[Job]) -> None:
    """Write the pictures side by side on one, with what they show; the first hundred of them."""
    import numpy as np

    from core.data.images import read_image
    from core.weights.files import replacing
    from vision.pictures import sheet

    shown = made[:SHOWN]
    cells = [np.asarray(read_image(job.place)) for job in shown]
    titles = [f"{_title(job.settings)} {job.seed}".strip() for job in shown]
    rows = list(_chunks(cells))
    with replacing(path) as draft:
        sheet(rows, list(_chunks(titles)), side=128).save(draft, "PNG")


def _title(settings: Mapping[str, Any]) -> str:
    text = str(settings.get("prompt", ""))
    return (text if len(text) <= TITLE else f"{text[: TITLE - 1]}\u2026") or str(settings.get("class", ""))


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + COLUMNS] for start in range(0, len(items), COLUMNS))


def _name(labels: Sequence[str], index: int | None) -> str:
    if index is None:
        return ""
    return labels[index] if index < len(labels) else f"class {index}"


def _slug(labels: Sequence[str], index: int | None) -> str:
    """The class's first name as part of a file's name, with its number where several classes share it."""
    if index is None:
        return "sample"
    plain = [re.sub(r"\W+", "_", name.split(",")[0].casefold()).strip("_") for name in labels]
    if index >= len(plain) or not plain[index]:
        return f"class_{index}"
    return plain[index] if plain.count(plain[index]) == 1 else f"{plain[index]}_{index}"


def _difference(found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str:
    """The first setting that differs."""
    if found is None:
        return ""
    keys = [key for key in sorted(found.keys() | wanted.keys()) if found.get(key) != wanted.get(key)]
    return f" ({keys[0]} {found.get(keys[0])}, not {wanted.get(keys[0])})"
