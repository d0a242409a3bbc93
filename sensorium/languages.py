"""Language models for the commands: a folder of Hugging Face, a bundle, or a ``.ckpt`` of `sensorium fit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from core.errors import InputError

if TYPE_CHECKING:
    from multimodal.chat_template import ChatTemplate
    from multimodal.decoder import Decoder
    from multimodal.language import LanguageModel
    from multimodal.language_tokenizer import LanguageTokenizer

__all__ = ["LanguageParts", "is_language", "language_parts", "open_language"]


class LanguageParts(NamedTuple):
    """A language model as it was stored.

    Attributes:
        decoder: in float32 and evaluation mode.
        tokenizer, template: of its texts and chats.
        folder: that the tokenizer is in.
        source: a `core.weights.Source` of published weights, for their way back.
    """

    decoder: "Decoder"
    tokenizer: "LanguageTokenizer"
    template: "ChatTemplate | None"
    folder: Path
    source: Any = None


def is_language(path: Path) -> bool:
    """Whether a local file or folder holds a language model that can't see.

    Raises:
        InputError: if a ``.ckpt`` can't be read.
    """
    if path.suffix == ".ckpt":
        from multimodal.tasks.trained import trained_model  # whoever reads published weights must not load a trainer

        return trained_model(path) == "multimodal.decoder.Decoder"
    from multimodal.decoder_weights import is_decoder

    return is_decoder(path)


def language_parts(path: Path) -> LanguageParts:
    """Load a language model and what belongs to it.

    Raises:
        InputError: if it is none.
    """
    from multimodal.decoder_config import KINDS

    if not is_language(path):
        raise InputError(
            f"{path} holds no language model that is known: expected a .ckpt, a bundle, or a folder of "
            f"{', '.join(KINDS)}"
        )
    if path.suffix == ".ckpt":
        from multimodal.decoder import Decoder
        from multimodal.tasks.trained import load_trained_language

        found = load_trained_language(path)
        assert isinstance(found.model, Decoder)
        return LanguageParts(found.model, found.tokenizer, found.template, found.folder)
    from multimodal.chat_template import ChatTemplate
    from multimodal.decoder_weights import load_decoder
    from multimodal.language_tokenizer import LanguageTokenizer

    decoder, origin = load_decoder(path)
    return LanguageParts(decoder, LanguageTokenizer.load(path), ChatTemplate.load(path), path, origin.source)


def open_language(path: Path, precision: Literal["auto", "float32", "int8"] = "auto") -> "LanguageModel":
    """Load a language model as is fastest on the machine; `precision` as of `multimodal.language.load_language`.

    Raises:
        InputError: if it is none.
    """
    from multimodal.language import LanguageModel, prepared

    found = language_parts(path)
    return LanguageModel(prepared(found.decoder, precision), found.tokenizer, found.template)
