"""Vision-language models by name, for the commands: where one is, and all that it needs to answer."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InputError

if TYPE_CHECKING:
    from multimodal.vlm.chat import VisionLanguage

__all__ = ["embedded_sight", "find_sight", "is_sight", "open_sight", "write_sight_bundle"]

FILES = ("*.json", "*.safetensors", "*.safetensors.index.json", "chat_template.jinja", "merges.txt")
"""Of a model on the Hub: the weights in safetensors, and everything that is data."""
EMBEDDED = Path(__file__).parents[1] / "assets" / "vlm_fashion_mnist"


def embedded_sight() -> str:
    """The small model of a checkout of this repository, which talks about clothes.

    Raises:
        InputError: if it isn't there.
    """
    if not (EMBEDDED / "config.json").is_file():
        raise InputError(
            "say which model by --model: the small one that is the default (assets/vlm_fashion_mnist) is not here; "
            "it belongs to a checkout"
        )
    return str(EMBEDDED)


def find_sight(source: str) -> Path:
    """The local file or folder of a vision-language model, downloaded if need be.

    Raises:
        InputError: if there is none.
    """
    from core.weights import fetch

    if Path(source).expanduser().exists() or "/" in source:
        return fetch(source, patterns=FILES)
    raise InputError(
        f"unknown model {source!r}: give a path, or owner/name of the Hub such as HuggingFaceTB/SmolVLM-256M-Instruct"
    )


def is_sight(path: Path) -> bool:
    """Whether a local file or folder holds a vision-language model.

    Raises:
        InputError: if a ``.ckpt`` can't be read.
    """
    from multimodal.vlm.weights import is_vlm

    return _trained(path) if path.suffix == ".ckpt" else is_vlm(path)


def open_sight(path: Path) -> "VisionLanguage":
    """Load a vision-language model on the fastest device: a bundle, a folder of Hugging Face, or a ``.ckpt``.

    Raises:
        InputError: if it is none.
    """
    import torch

    from multimodal.vlm.chat import VisionLanguage

    if path.suffix == ".ckpt":
        found = _of_checkpoint(path)
    elif is_sight(path):
        found = VisionLanguage.load(path)
    else:
        raise InputError(f"{path} holds no vision-language model: expected LLaVA-1.5, Idefics, SmolVLM or a bundle")
    found.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return found


def write_sight_bundle(opened: Any, folder: Path, precision: str | None = None) -> None:
    """Write a vision-language model (`multimodal.vlm.chat.VisionLanguage`) with its tokenizer and chat template."""
    import json
    import tempfile

    import torch

    from core.weights import Bundle, save_bundle

    model, template = opened.model, opened.template
    said = Bundle(
        f"multimodal.{type(model).__name__}",
        asdict(model.config),
        preprocessing=opened.showing.plain(),
        tokenizer={"files": ["tokenizer.json", "tokenizer_config.json"]},
        source=opened.source,
    )
    words: dict[str, Any] = {} if template is None else {"chat_template": template.source, **template.special}
    stop = opened.tokenizer.stops[0] if opened.tokenizer.stops else None
    if stop is not None:
        words["eos_token"] = opened.tokenizer.tokenizer.id_to_token(stop)
    with tempfile.TemporaryDirectory() as room:
        opened.tokenizer.save(room)
        config = Path(room) / "tokenizer_config.json"
        config.write_text(json.dumps(words, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        files = {"tokenizer.json": Path(room) / "tokenizer.json", config.name: config}
        if precision is not None:
            model = model.to(getattr(torch, precision))
        try:
            save_bundle(folder, model, said, files)
        finally:
            model.float()


def _trained(path: Path) -> bool:
    from multimodal.tasks.trained import trained_model  # whoever reads published weights must not load a trainer

    return trained_model(path).startswith("multimodal.vlm.")


def _of_checkpoint(path: Path) -> "VisionLanguage":
    """What a ``.ckpt`` was trained for, with the tokenizer, the template and the pictures of its recipe."""
    from multimodal.tasks.trained import load_trained_language
    from multimodal.vlm.chat import VisionLanguage
    from multimodal.vlm.config import Gated, Projected

    found = load_trained_language(path)
    model = found.model
    if not isinstance(model, Projected | Gated):
        raise InputError(f"{path} trained a {type(model).__name__}, which does not see")
    return VisionLanguage(model, found.tokenizer, found.template, _showing(model, found.data.get("pictures")))


def _showing(model: Any, recipe: Any) -> Any:
    """How a recipe's ``pictures`` (`multimodal.tasks.seeing`) are shown."""
    from multimodal.vlm.crops import Crops
    from multimodal.vlm.showing import Showing, whole
    from multimodal.vlm.words import CropWords, RepeatedWords

    recipe = recipe or {}
    kind, init = str(recipe.get("class_path")), dict(recipe.get("init_args") or {})
    if kind == "multimodal.tasks.seeing.Cropped":
        sizes = {name: init[name] for name in ("side", "longest") if name in init}
        return Showing(Crops(**{"side": 512, "longest": 2048, **sizes}), CropWords(count=int(init.get("count", 64))))
    if kind != "multimodal.tasks.seeing.Whole":
        raise InputError(f"pictures shown by {kind} can't be shown here: multimodal.tasks.seeing.Whole and Cropped can")
    words = RepeatedWords(str(init.get("token", "<image>")), int(init["count"]))
    return Showing(whole(model.config, dict(init.get("preprocess") or {})), words)
