"""Bundles of what was trained or loaded: everything that the model needs, in one folder."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

__all__ = [
    "write_encoder_bundle",
    "write_generator_bundle",
    "write_language_bundle",
    "write_towers_bundle",
    "write_whisper_bundle",
]


def write_encoder_bundle(encoder: Any, origin: Any, folder: Path, precision: str | None = None) -> None:
    """Write an image encoder with what its `Origin` says of labels and preparation."""
    from core.weights import Bundle

    said = Bundle(
        f"vision.{type(encoder).__name__}",
        asdict(encoder.config),
        preprocessing=origin.preprocessing,
        labels=origin.labels,
        source=origin.source,
    )
    _save(folder, encoder, said, {}, precision)


def write_generator_bundle(opened: Any, folder: Path, precision: str | None = None) -> None:
    """Write a diffusion model (`sensorium.generators.OpenGenerator`), with its process, latents and settings.

    Of one that is told texts also the encoder of texts and its tokenizer.
    """
    from core.weights import Bundle

    family, model, files = "diffusion", opened.model, {}
    if opened.prompts is not None:
        from multimodal.text_to_image import TextToImage

        family, model, files = "multimodal", TextToImage(model, opened.prompts.encoder), opened.prompts.files
    said = Bundle(
        f"{family}.{type(model).__name__}",
        asdict(model.config),
        preprocessing={"latents": opened.recipes["latents"]},
        tokenizer={"files": sorted(files)} if files else {},
        labels=opened.labels,
        notes={"process": opened.recipes["process"], "generate": opened.settings},
    )
    _save(folder, model, said, files, precision)


def write_language_bundle(decoder: Any, source: Any, origin: Path, folder: Path, precision: str | None = None) -> None:
    """Write a language model with the tokenizer and the chat template of the folder that it came from."""
    from core.weights import Bundle
    from multimodal.language_tokenizer import LanguageTokenizer

    names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "vocab.json", "merges.txt")
    files = {name: origin / name for name in (*names, "chat_template.json") if (origin / name).is_file()}
    with tempfile.TemporaryDirectory() as room:
        template = origin / "chat_template.jinja"
        if template.is_file():  # a bundle has no programs: as the text that it is
            files["chat_template.json"] = Path(room) / "chat_template.json"
            text = json.dumps({"chat_template": template.read_text(encoding="utf-8")}, ensure_ascii=False)
            files["chat_template.json"].write_text(text, encoding="utf-8")
        if "generation_config.json" not in files:  # the config of a bundle doesn't say which tokens end a text
            files["generation_config.json"] = Path(room) / "generation_config.json"
            stops = {"eos_token_id": list(LanguageTokenizer.load(origin).stops)}
            files["generation_config.json"].write_text(json.dumps(stops), encoding="utf-8")
        said = Bundle("multimodal.Decoder", asdict(decoder.config), tokenizer={"files": sorted(files)}, source=source)
        _save(folder, decoder, said, files, precision)


def write_towers_bundle(towers: Any, folder: Path, precision: str | None = None) -> None:
    """Write a two-tower model (`sensorium.towers.OpenTowers`) with its tokenizer and how its pictures are prepared."""
    from core.weights import Bundle

    said = Bundle(
        f"multimodal.{type(towers.model).__name__}",
        asdict(towers.model.config),
        preprocessing=asdict(towers.prepare),
        tokenizer={"files": sorted(towers.tokenizer_files)},
        source=towers.origin.source,
    )
    _save(folder, towers.model, said, towers.tokenizer_files, precision)


def write_whisper_bundle(model: Any, source: Any, folder: Path, precision: str | None = None) -> None:
    """Write a Whisper; its tokenizer follows from the size of its vocabulary."""
    from core.weights import Bundle

    _save(folder, model, Bundle("audio.Whisper", asdict(model.config), source=source), {}, precision)


def _save(folder: Path, model: Any, said: Any, files: dict[str, Path], precision: str | None) -> None:
    import torch

    from core.weights import save_bundle

    if precision is not None:
        model = model.to(getattr(torch, precision))
    try:
        save_bundle(folder, model, said, files)
    finally:
        model.float()
