"""Sets of recordings in files: a folder for each class, files whose names say what is in them, anything at all."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.audio import LONGEST, read_audio
from core.data.images import class_folders
from core.data.labels import numbered
from core.data.piece import read_piece
from core.data.sets import ItemSet, Split
from core.data.splits import SPLIT_NAMES
from core.data.utterance import Utterance
from core.errors import InputError

__all__ = ["RATE", "SOUNDS", "AudioFolder", "AudioFormat", "AudioSet", "FileNames", "Held", "Recordings", "sounds"]

RATE = 16_000  # samples a second, of all waveforms
SOUNDS = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".webm", ".mkv", ".wma", ".aif", ".aiff"}
)

AudioSet = ItemSet[list[Tensor]]
"""Recordings; reading gives waveforms (samples,), mono float32 at 16 kHz. ``captions`` are utterances, if known."""


class AudioFormat(ABC):
    """How a set of recordings lies on disk."""

    @abstractmethod
    def open(self, root: Path, split: Split) -> AudioSet | None:
        """One split of the data set in ``root``; None if the format has no such split (then it may be held out of
        another).

        Raises:
            InputError: If ``root`` or a file in it is missing or is not what it should be.
        """


class Recordings(AudioSet):
    """Recordings read from files when they are asked for.

    Args:
        root: Names are given relative to it.
        paths: The files.
        labels: (N,) int64 classes, or None.
        classes: Names of the classes.
        utterances: What is said in each; one that has an offset is a piece of its file.
    """

    noun = "recordings"

    def __init__(
        self,
        root: Path,
        paths: list[Path],
        labels: np.ndarray | None = None,
        classes: Sequence[str] = (),
        utterances: Sequence[Utterance] | None = None,
    ) -> None:
        self.root, self.paths, self.labels, self.classes = root, paths, labels, list(classes)
        self.captions = utterances

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> list[Tensor]:
        return [self._read(index) for index in indices]

    def name(self, index: int) -> str:
        path = self.paths[index]
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def _read(self, index: int) -> Tensor:
        said = None if self.captions is None else self.captions[index]
        if said is None or said.offset is None:
            return read_audio(self.paths[index])
        return read_piece(self.paths[index], said.offset, said.seconds)


class Held(AudioSet):
    """Keeps what it has read of another set, in 16 bits, up to a limit: small sets are decoded once.

    Args:
        whole: The set.
        most: Bytes that a process may keep.
        longest: Seconds; a longer recording counts as one that can't be read.
    """

    def __init__(self, whole: AudioSet, most: int = 1 << 30, longest: float = LONGEST) -> None:
        self.whole = whole
        self.most = most
        self.longest = longest
        self.noun, self.classes, self.labels, self.captions = whole.noun, whole.classes, whole.labels, whole.captions
        self._kept: dict[int, Tensor] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self.whole)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": {}, "_size": 0}

    def read(self, indices: Sequence[int]) -> list[Tensor]:
        return [self._read(index) for index in indices]

    def name(self, index: int) -> str:
        return self.whole.name(index)

    def _read(self, index: int) -> Tensor:
        kept = self._kept.get(index)
        if kept is None:
            heard = self.whole.read([index])[0]
            if len(heard) > self.longest * RATE:
                raise InputError(
                    f"{self.name(index)} lasts {len(heard) / RATE:.1f} s, the limit is {self.longest:g} s: cut it up"
                )
            # rounded also where it isn't kept: what a recording sounds like must not depend on the limit
            kept = (heard * 32767).round_().to(torch.int16)
            if self._size + 2 * len(kept) <= self.most:
                self._kept[index] = kept
                self._size += 2 * len(kept)
        return kept.float() / 32767


class AudioFolder(AudioFormat):
    """``root/train/CLASS/recording.wav``, with ``val`` and ``test`` beside ``train``; or ``root/CLASS/recording.wav``.

    Classes are the folders' names in alphabetical order, those of training for every split. To predict, every
    recording below ``root`` is taken, however it lies. Hidden files, and those that aren't recordings by their suffix,
    are passed over.
    """

    def open(self, root: Path, split: Split) -> Recordings | None:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; expected one with a subfolder of recordings for each class")
        if split == "predict":
            return Recordings(root, _some(root))
        nested = next((root / name for name in SPLIT_NAMES["train"] if (root / name).is_dir()), None)
        names = SPLIT_NAMES[split]
        folder = next((root / name for name in names if (root / name).is_dir()), None) if nested else root
        if folder is None or (nested is None and split != "train"):
            return None
        known = class_folders(nested or root)
        found = [(path, name) for name in class_folders(folder) for path in sounds(folder / name)]
        if not found or len(known) < 2:
            raise InputError(f"{folder}: expected two or more subfolders, one for each class, with recordings in them")
        labels, classes = numbered([name for _, name in found], known, str(folder))
        return Recordings(folder, [path for path, _ in found], labels, classes)


class FileNames(AudioFormat):
    """Recordings whose names say what is in them, such as the Free Spoken Digit Dataset's ``7_jackson_32.wav``.

    Args:
        pattern: A regular expression that the name (without its suffix) matches as a whole; its group ``label`` is the
            class. Files that don't match are passed over.
        test: A regular expression; files whose names match it as a whole are the test split. None for no such split.
        val: The same for validation.
        texts: What is said in a recording of each class; by default the label itself.
    """

    def __init__(
        self, pattern: str, test: str | None = None, val: str | None = None, texts: Mapping[str, str] | None = None
    ) -> None:
        try:
            self.pattern = re.compile(pattern)
            self.special: dict[Split, re.Pattern[str]] = {}
            if test is not None:
                self.special["test"] = re.compile(test)
            if val is not None:
                self.special["val"] = re.compile(val)
        except re.error as error:
            raise InputError(f"{error.pattern!r} is no regular expression: {error}") from error
        if "label" not in self.pattern.groupindex:
            raise InputError(f"the pattern {pattern!r} has no group (?P<label>...): which part is the class?")
        self.texts = texts

    def open(self, root: Path, split: Split) -> Recordings | None:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; expected one with recordings")
        found = [(path, said[1]) for path in sounds(root) if (said := self._told(path))]
        if not found:
            raise InputError(f"{root}: the name of no recording matches {self.pattern.pattern!r}")
        if split != "predict" and split != "train" and split not in self.special:
            return None
        known = [label for path, label in found if self._split(path) == "train"]
        mine = [(path, label) for path, label in found if split in ("predict", self._split(path))]
        if not mine or not known:
            raise InputError(f"{root}: no recording for {split if known else 'train'}, by its name")
        unknown = {label for _, label in mine} - set(self.texts or known)
        if unknown:
            raise InputError(f"{root}: the class {min(unknown)!r} has no text, or does not occur in training")
        labels, classes = numbered([label for _, label in mine], known, str(root))
        utterances = [Utterance(self.texts[label] if self.texts else label) for _, label in mine]
        return Recordings(root, [path for path, _ in mine], labels, classes, utterances)

    def _told(self, path: Path) -> tuple[str, str] | None:
        found = self.pattern.fullmatch(path.stem)
        return None if found is None or found["label"] is None else (path.stem, found["label"])

    def _split(self, path: Path) -> Split:
        return next((split for split, rule in self.special.items() if rule.fullmatch(path.stem)), "train")


def sounds(folder: Path) -> list[Path]:
    """The recordings below a folder, by their suffixes, in alphabetical order; nothing hidden."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SOUNDS and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _some(root: Path) -> list[Path]:
    paths = sounds(root)
    if not paths:
        raise InputError(f"{root}: no recordings below it; expected .wav, .flac, .mp3, ... files")
    return paths
