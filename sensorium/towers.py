"""Two-tower models by name, for the commands: where one is, how it reads texts, how its pictures are prepared."""

from pathlib import Path
from typing import Any, NamedTuple

from core.errors import InputError

__all__ = ["OpenTowers", "embedded", "is_towers", "open_towers"]

EMBEDDED = Path(__file__).parents[1] / "assets" / "clip_fashion_mnist"


class OpenTowers(NamedTuple):
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


def embedded() -> str:
    """The small model of a checkout of this repository: pictures of clothes and words about them.

    Raises:
        InputError: if this is no checkout.
    """
    if not EMBEDDED.is_dir():
        raise InputError("say which model by --model: the small one that is the default belongs to a checkout")
    return str(EMBEDDED)


def is_towers(source: str) -> bool:
    """Whether what a name stands for embeds texts too; it is downloaded if need be, if it can be such a model."""
    from core.weights import is_bundle, read, read_bundle
    from multimodal.load import find_towers

    path = Path(source).expanduser()
    if not path.exists():
        if "/" not in source and not source.startswith("hf-hub:"):
            return False
        path = find_towers(source)
    if path.suffix == ".ckpt":
        from multimodal.tasks.trained import trained_towers  # whoever reads published weights must not load a trainer

        return trained_towers(path)
    if is_bundle(path):
        return read_bundle(path).model in ("multimodal.TwoTowers", "multimodal.CoCa")
    return any("token_embedding." in name for name in read(path).tensors)


def open_towers(source: str) -> OpenTowers:
    """The two-tower model that `multimodal.load.find_towers` finds, a ``.ckpt`` of `sensorium fit` included."""
    from multimodal.find_tokenizer import open_tokenizer, tokenizer_files, tokenizer_for
    from multimodal.load import find_towers, load_towers
    from multimodal.preparation import preparation_for

    path = find_towers(source)
    if path.suffix == ".ckpt":
        from multimodal.tasks.trained import load_trained_towers

        model, name, origin = load_trained_towers(path)
        tokenizer: Any = open_tokenizer(name, model.config.context)
        files = tokenizer_files(name)
    else:
        model, origin = load_towers(path)
        tokenizer = tokenizer_for(path, model.config.vocab, model.config.context)
        files = tokenizer_files(str(path))
    return OpenTowers(model, tokenizer, preparation_for(model, origin), files, origin)
