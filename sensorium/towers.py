"""Two-tower models by name, for the commands: where one is, how it reads texts, how its pictures are prepared."""

import difflib
import json
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import InputError

__all__ = ["DEFAULT", "Towers", "find_towers", "is_towers", "open_towers"]

DEFAULT = Path(__file__).parents[1] / "assets" / "clip_fashion_mnist"
"""The model of a checkout of this repository: pictures of clothes and words about them."""


class Towers(NamedTuple):
    """A two-tower model and what it needs.

    Attributes:
        model: in evaluation mode.
        tokenizer: a `multimodal.tokenizer.TextTokenizer`.
        prepare: of its pictures, a `vision.preprocess.Preparation`.
        tokenizer_files: that the tokenizer was read from, by the names that a bundle gives them.
        origin: a `vision.checkpoints.Origin`.
    """

    model: Any
    tokenizer: Any
    prepare: Any
    tokenizer_files: dict[str, Path]
    origin: Any


def find_towers(source: str) -> Path:
    """The local file or folder of a two-tower model, downloaded if need be.

    `source` is a path, a model of the Hub (``owner/name`` or open_clip's ``hf-hub:owner/name``), or open_clip's
    ``ViT-B-32/laion2b_s34b_b79k``.

    Raises `InputError` when there is none, with the nearest names.
    """
    from core.weights import fetch

    if Path(source).expanduser().exists():
        return Path(source).expanduser()
    if source.startswith("hf-hub:"):
        return fetch(source.removeprefix("hf-hub:"))
    hub = _hub()
    if source in hub:
        return fetch(hub[source])
    if "/" in source and source.partition("/")[0] not in {name.partition("/")[0] for name in hub}:
        return fetch(source)
    near = difflib.get_close_matches(source, hub, n=3, cutoff=0.3) or ["ViT-B-32/laion2b_s34b_b79k"]
    raise InputError(
        f"unknown model {source!r}: give a path, owner/name of the Hub, or a name such as {', '.join(near)}"
    )


def is_towers(source: str) -> bool:
    """Whether what a name stands for embeds texts too; it is downloaded if need be, if it can be such a model."""
    from core.weights import is_bundle, read, read_bundle

    path = Path(source).expanduser()
    if not path.exists():
        if "/" not in source and not source.startswith("hf-hub:"):
            return False
        path = find_towers(source)
    if path.suffix == ".ckpt":
        from multimodal.tasks.trained import trained_towers  # whoever reads published weights must not load a trainer

        return trained_towers(path)
    if is_bundle(path):
        return read_bundle(path).model.startswith("multimodal.")
    return any("token_embedding." in name for name in read(path).tensors)


def open_towers(source: str) -> Towers:
    """The two-tower model that `find_towers` finds, a ``.ckpt`` of `sensorium fit` included."""
    from multimodal.find_tokenizer import open_tokenizer, tokenizer_files, tokenizer_for
    from multimodal.preparation import preparation_for

    path = find_towers(source)
    if path.suffix == ".ckpt":
        from multimodal.tasks.trained import load_trained_towers

        model, name, origin = load_trained_towers(path)
        tokenizer: Any = open_tokenizer(name, model.config.context)
        files = tokenizer_files(name)
    else:
        model, origin = _load(path)
        tokenizer = tokenizer_for(path, model.config.vocab, model.config.context)
        files = tokenizer_files(str(path))
    return Towers(model, tokenizer, preparation_for(model, origin), files, origin)


def _load(path: Path) -> tuple[Any, Any]:
    from core.weights import is_bundle, read, read_bundle
    from multimodal.coca_weights import MAKERS as COCA
    from multimodal.coca_weights import load_coca
    from multimodal.weights import load_two_towers

    if is_bundle(path):
        return load_coca(path) if read_bundle(path).model in COCA else load_two_towers(path)
    captions = any(name.startswith("text_decoder.") for name in read(path).tensors)
    return load_coca(path) if captions else load_two_towers(path)


def _hub() -> dict[str, str]:
    """open_clip's names and what they are called on the Hub."""
    import multimodal

    path = Path(multimodal.__file__).parent / "assets" / "open_clip_hub.json"
    names: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return names
