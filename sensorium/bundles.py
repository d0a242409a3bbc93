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


def write_language_bundle(parts: Any, folder: Path, precision: str | None = None) -> None:
    """Write a language model (`sensorium.languages.LanguageParts`) with its tokenizer and its chat template."""
    from core.weights import Bundle

    names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "vocab.json", "merges.txt")
    files = {name: parts.folder / name for name in names if (parts.folder / name).is_file()}
    with tempfile.TemporaryDirectory() as room:
        made: dict[str, Any] = {}
        if parts.template is not None:  # a bundle has no programs: as the text that it is
            made["chat_template.json"] = {"chat_template": parts.template.source}
        if "generation_config.json" not in files or parts.source is None:
            # the config of a bundle doesn't say which tokens end a text
            made["generation_config.json"] = {"eos_token_id": list(parts.tokenizer.stops)}
        for name, said in made.items():
            files[name] = Path(room) / name
            files[name].write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
        config, words = asdict(parts.decoder.config), {"files": sorted(files)}
        _save(
            folder,
            parts.decoder,
            Bundle("multimodal.Decoder", config, tokenizer=words, source=parts.source),
            files,
            precision,
        )


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
