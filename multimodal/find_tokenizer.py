"""Which tokenizer a folder of weights needs, by the files that open_clip and Hugging Face put beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.weights.files import read_json, section
from multimodal.clean import CLEANERS, Cleaner, canonicalize, lower_only
from multimodal.tokenizer import ClipTokenizer, SiglipTokenizer, TextTokenizer

__all__ = ["open_tokenizer", "tokenizer_files", "tokenizer_for"]

CLIP_VOCAB = 49_408
MERGES = "merges.txt"
_FILES = ("open_clip_config.json", "tokenizer_config.json", "tokenizer.json", "vocab.json", MERGES)
_SIGLIP = {"SiglipTokenizer", "T5Tokenizer"}
_SIGLIP2 = {"Siglip2Tokenizer", "GemmaTokenizer"}


def tokenizer_for(path: Path, vocab: int | None = None, context: int | None = None) -> TextTokenizer:
    """The tokenizer of a model.

    Args:
        path: the model's folder, or a file in it. A bare file needs none beside it where CLIP's vocabulary fits.
        vocab: rows of the model's token embedding, where that is known.
        context: columns that the text tower reads; the files' own number, if not given.

    Raises:
        InputError: if nothing tells which tokenizer it is, or it has more tokens than the model.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or vocab != CLIP_VOCAB:
        found = _from_folder(folder, vocab, context)
    else:
        found = ClipTokenizer(context or 77)
    if vocab is not None and found.vocab > vocab:
        raise InputError(f"the tokenizer of {folder} has {found.vocab} tokens and the model {vocab}: they don't fit")
    return found


def open_tokenizer(name: str, context: int) -> TextTokenizer:
    """The tokenizer to train a model with.

    Args:
        name: ``clip``, a file of merges, or a folder as of :func:`tokenizer_for`.
        context: columns that the text tower reads.

    Raises:
        InputError: if it is none of these.
    """
    if name == "clip":
        return ClipTokenizer(context)
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"no tokenizer {name!r} here: expected clip, a file of merges, or the folder of a model")
    return ClipTokenizer.from_file(path, context) if path.is_file() else tokenizer_for(path, context=context)


def tokenizer_files(name: str) -> dict[str, Path]:
    """The files of a tokenizer that a copy of the model needs beside it, by the names that they have there.

    Args:
        name: as of :func:`open_tokenizer`, or a file of weights: then what lies beside it.
    """
    path = Path(name).expanduser()
    if path.suffix == ".txt":
        return {MERGES: path}
    folder = path if path.is_dir() else path.parent
    return {} if name == "clip" else {file: folder / file for file in _FILES if (folder / file).is_file()}


def _from_folder(folder: Path, vocab: int | None, context: int | None) -> TextTokenizer:
    if (folder / "open_clip_config.json").is_file():
        model = section(read_json(folder / "open_clip_config.json"), "model_cfg")
        return _from_open_clip(folder, section(model, "text_cfg"), context)
    if (folder / "tokenizer_config.json").is_file():
        return _from_hugging_face(folder, read_json(folder / "tokenizer_config.json"), context)
    if vocab == CLIP_VOCAB:
        return ClipTokenizer(context or 77)
    if (folder / MERGES).is_file():
        return ClipTokenizer.from_file(folder / MERGES, context or 77)
    raise InputError(
        f"no tokenizer for {folder}: expected open_clip_config.json, or tokenizer_config.json with tokenizer.json"
    )


def _from_open_clip(folder: Path, text: Mapping[str, Any], context: int | None) -> TextTokenizer:
    length = context or text.get("context_length", 77)
    asked = section(text, "tokenizer_kwargs").get("clean")
    if asked is not None and asked not in CLEANERS:
        raise InputError(f"{folder} cleans texts by {asked!r}: expected one of {', '.join(sorted(CLEANERS))}")
    name = text.get("hf_tokenizer_name")
    if name is None:
        return ClipTokenizer(length, clean=CLEANERS[asked or "lower"])
    if "siglip" not in str(name).lower():
        raise InputError(f"{folder} reads texts by {name}, which is not supported: CLIP's and SigLIP's tokenizers are")
    return SiglipTokenizer.from_folder(folder, length, CLEANERS[asked or "whitespace"])


def _from_hugging_face(folder: Path, config: Mapping[str, Any], context: int | None) -> TextTokenizer:
    kind = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    clean: Cleaner | None = None
    if kind == "CLIPTokenizer":
        return _hugging_face_clip(folder, config, context)
    if kind in _SIGLIP2:
        clean = lower_only
    elif kind == "T5Tokenizer":
        clean = canonicalize
    elif kind not in _SIGLIP:
        raise InputError(
            f"{folder} wants a {kind or 'tokenizer without a name'}: CLIP's, SigLIP's and SigLIP 2's are supported"
        )
    return SiglipTokenizer.from_folder(folder, context or 64, clean)


def _hugging_face_clip(folder: Path, config: Mapping[str, Any], context: int | None) -> TextTokenizer:
    words = len(read_json(folder / "vocab.json")) if (folder / "vocab.json").is_file() else CLIP_VOCAB
    if words != CLIP_VOCAB:
        raise InputError(
            f"{folder / 'vocab.json'} has {words} tokens: of CLIP's tokenizers, that of {CLIP_VOCAB} is known"
        )
    tokenizer = ClipTokenizer(context or min(int(config.get("model_max_length", 77)), 512))
    pad = config.get("pad_token", "<|endoftext|>")
    text = pad.get("content") if isinstance(pad, dict) else pad
    tokenizer.pad = tokenizer.eot if text == "<|endoftext|>" else tokenizer.bpe.ids.get(str(text), 0)
    return tokenizer
