"""The models of checkpoints of ours: two towers, language models, and those that see."""

from pathlib import Path
from typing import Any, NamedTuple

from core.errors import InputError
from core.train.checkpoint import read_recipe
from core.train.rebuild import rebuild
from core.weights.published import Origin
from multimodal.chat_template import ChatTemplate
from multimodal.coca import CoCa
from multimodal.decoder import Decoder
from multimodal.language_tokenizer import LanguageTokenizer
from multimodal.two_towers import TwoTowers
from multimodal.vlm.config import Gated, Projected

__all__ = ["TrainedLanguage", "load_trained_language", "load_trained_towers", "trained_model", "trained_towers"]


def trained_towers(path: Path | str) -> bool:
    """Whether a ``.ckpt`` is of a task of this package.

    Raises:
        InputError: If the file is no checkpoint of ``sensorium fit``.
    """
    return str((read_recipe(Path(path)).get("model") or {}).get("class_path")).startswith("multimodal.")


def load_trained_towers(path: Path | str) -> tuple[TwoTowers | CoCa, str, Origin]:
    """Load what a ``.ckpt`` of ``sensorium fit`` was trained for; with averaged weights where there are some.

    Returns:
        The model in evaluation mode; the tokenizer that it was trained with, a name or path as of
        :func:`multimodal.find_tokenizer.open_tokenizer`; and where it came from: ``preprocessing`` is the transform
        that it was evaluated with.

    Raises:
        InputError: If the file is no such checkpoint, or the task trained no two towers.
    """
    path = Path(path)
    model: Any = rebuild(path).model
    if not isinstance(model, TwoTowers | CoCa):
        raise InputError(f"{path} trained a {type(model).__name__}, which has no towers for images and texts")
    data = read_recipe(path).get("data") or {}
    given = data.get("init_args") or data
    origin = Origin("checkpoint", None, (), dict(given.get("preprocess") or {}))
    return model.eval(), str(given.get("tokenizer") or "clip"), origin


class TrainedLanguage(NamedTuple):
    """What a ``.ckpt`` of a language model, or one that sees, was trained for and with.

    Attributes:
        model: in evaluation mode.
        tokenizer: of the data; what ended its texts is the first that ends one now.
        template: of its chats, if there is any.
        folder: of the tokenizer.
        data: the arguments of the data in the recipe.
    """

    model: Decoder | Projected | Gated
    tokenizer: LanguageTokenizer
    template: ChatTemplate | None
    folder: Path
    data: dict[str, Any]


def trained_model(path: Path | str) -> str:
    """The ``class_path`` of the model in the recipe of a ``.ckpt``; empty if it names none.

    Raises:
        InputError: If the file is no checkpoint of ``sensorium fit``.
    """
    model = ((read_recipe(Path(path)).get("model") or {}).get("init_args") or {}).get("model")
    return str(model.get("class_path") or "") if isinstance(model, dict) else ""


def load_trained_language(path: Path | str) -> TrainedLanguage:
    """Load a language model, or one that sees, from a ``.ckpt`` of ``sensorium fit``.

    Raises:
        InputError: If the file is no such checkpoint, the task trained something else, or on data without texts.
    """
    path = Path(path)
    model: Any = rebuild(path).model
    if not isinstance(model, Decoder | Projected | Gated):
        raise InputError(f"{path} trained a {type(model).__name__}: expected a language model, or one that sees")
    data = read_recipe(path).get("data") or {}
    given = dict(data.get("init_args") or data)
    if not given.get("tokenizer"):
        raise InputError(f"{path}: its recipe names no tokenizer: it was not trained on texts")
    place = Path(str(given["tokenizer"])).expanduser()
    folder = place if place.is_dir() else place.parent
    tokenizer, template = LanguageTokenizer.load(folder), ChatTemplate.load(folder)
    end = tokenizer.token(str(given["end"])) if given.get("end") else None
    if end is not None:
        tokenizer.stops = (end, *(stop for stop in tokenizer.stops if stop != end))
    if given.get("template"):
        file = Path(str(given["template"])).expanduser()
        if not file.is_file():
            raise InputError(f"{file}: no such file; the chat template that {path} was trained with")
        template = ChatTemplate(file.read_text(encoding="utf-8"), **({} if template is None else template.special))
    return TrainedLanguage(model.eval(), tokenizer, template, folder, given)
