"""From a name or a path to what can be called: the pipelines behind `sensorium.load`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.errors import InputError

__all__ = ["list_models", "load"]


def list_models(family: str | None = None) -> list[str]:
    """The names that `load` knows, of all families or of one (whisper).

    Raises `InputError` for a family that there is not.
    """
    from audio.checkpoints import CHECKPOINTS

    known = {"whisper": list(CHECKPOINTS)}
    if family is not None and family not in known:
        raise InputError(f"no family of models {family!r}: choose one of {', '.join(known)}")
    return [model for name, models in known.items() if family in (None, name) for model in models]


def load(source: str | Path, **settings: Any) -> Any:
    """The pipeline that fits a model.

    A Whisper becomes an `audio.transcribe.Transcriber`: ``load("tiny.en")("talk.mp3").text``; `settings` are those of
    `audio.transcribe.Settings`, such as ``language="de"``, and `precision`: what is fastest on the machine, or
    ``"float32"`` (see `audio.fast.fast_whisper`). An image encoder becomes a `vision.vit.ViT` or
    `vision.swin.Swin` in evaluation mode, which maps images (B, C, H, W) to logits or features. A DiT or SiT becomes a
    `diffusion.generate.Generator`: ``load(...).generate("sneaker", num=4)``; `settings` are `precision`, `reuse` (see
    `diffusion.speed.caching`) and `vae`, the folder of its autoencoder if that isn't where the model says.

    A LLaVA, Idefics or SmolVLM becomes a `multimodal.vlm.chat.VisionLanguage`: ``load(...).chat(messages).text``.
    A Llama, Mistral, Qwen or GPT-2 becomes a `multimodal.language.LanguageModel`: ``load(...).generate(["Once"])``,
    with the setting `precision`.

    Args:
        source: a name of `list_models`, a bundle, a checkpoint's file or folder, or ``owner/name`` of the Hugging Face
            Hub. Whisper may come from OpenAI, Hugging Face or CTranslate2, an image encoder from timm, Hugging
            Face, torchvision, its authors, or a ``.ckpt`` of ``sensorium fit``.

    Raises `InputError` when there is no such model, it is of no family that is known, or a setting doesn't fit it.
    """
    from audio.checkpoints import find_whisper
    from sensorium.languages import is_language
    from sensorium.sights import is_sight

    path = find_whisper(str(source))
    if is_sight(path):
        return _sight(path, settings)
    if is_language(path):
        return _language(path, settings)
    return {"audio": _transcriber, "diffusion": _generator, "vision": _encoder}[_family(path)](path, settings)


def _family(path: Path) -> str:
    """The package that a model belongs to, by what its bundle says or what its tensors are called."""
    from core.weights import is_bundle, read, read_bundle
    from sensorium.generators import is_generator
    from sensorium.whispers import is_whisper

    if is_generator(path):
        return "diffusion"
    if path.suffix == ".ckpt":
        return "audio" if is_whisper(path) else "vision"
    family = read_bundle(path).model.partition(".")[0] if is_bundle(path) else _family_of(read(path).tensors)
    if family not in ("audio", "vision"):
        raise InputError(f"{path} holds no model that is known: expected a Whisper, an image encoder or a DiT")
    return family


def _family_of(names: Iterable[str]) -> str:
    whisper, parts = (
        ("decoder.", "decoder/", "model.decoder."),
        ("patch_embed", "embeddings.patch_embedding", "features.0"),
    )
    given = list(names)
    if any(part in name for name in given for part in parts):
        return "vision"
    return "audio" if any(name.startswith(whisper) for name in given) else ""


def _transcriber(path: Path, settings: dict[str, Any]) -> Any:
    from audio.fast import fast_whisper
    from audio.transcribe import Settings, Transcriber
    from sensorium.whispers import open_whisper

    precision = settings.pop("precision", "auto")
    _refuse_unknown(settings, Settings.__dataclass_fields__, "transcriber")
    model, _ = open_whisper(path)
    return Transcriber(fast_whisper(model, precision), settings=Settings(**settings))


def _generator(path: Path, settings: dict[str, Any]) -> Any:
    from sensorium.generators import open_generator

    vae = settings.pop("vae", None)
    _refuse_unknown(settings, ("precision", "reuse", "vae"), "diffusion model")
    return open_generator(path, vae).generator(**settings)


def _sight(path: Path, settings: dict[str, Any]) -> Any:
    from sensorium.sights import open_sight

    _refuse_unknown(settings, (), "vision-language model")
    return open_sight(path)


def _language(path: Path, settings: dict[str, Any]) -> Any:
    from sensorium.languages import open_language

    _refuse_unknown(settings, ("precision",), "language model")
    return open_language(path, **settings)


def _encoder(path: Path, settings: dict[str, Any]) -> Any:
    from sensorium.encoders import load_any

    _refuse_unknown(settings, (), "vision model")
    return load_any(path)[0]


def _refuse_unknown(settings: dict[str, Any], known: Iterable[str], what: str) -> None:
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise InputError(f"a {what} has no {', '.join(unknown)}; it has {', '.join(known) or 'no settings'}")
