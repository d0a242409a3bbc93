"""CoCa checkpoints of open_clip and our bundles: in, and out as they came."""

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import InputError
from core.weights import Makers, Source, build, from_plain, is_bundle, open_bundle, read, write_safetensors
from core.weights.files import read_json, section
from core.weights.published import Origin
from multimodal.coca import CoCa, CoCaConfig
from multimodal.coca_names import open_clip

__all__ = ["MAKERS", "PRESETS", "export_coca", "load_coca"]

_B32 = CoCaConfig()
PRESETS: dict[str, CoCaConfig] = {
    "coca_ViT-B-32": _B32,
    "coca_ViT-L-14": replace(
        _B32,
        image=replace(_B32.image, patch=14, dim=1024, depth=24, heads=16),
        embed=768,
        dim=768,
        heads=12,
        decoder_heads=12,
    ),
}
"""The models that open_clip has weights for, by its names."""

MAKERS: Makers = {"multimodal.CoCa": lambda config: CoCa(from_plain(CoCaConfig, config))}
"""What a bundle of this family may hold."""

CONFIG = "open_clip_config.json"


def load_coca(path: Path | str, config: CoCaConfig | None = None) -> tuple[CoCa, Origin]:
    """Load a CoCa model from a file or folder of open_clip, or from a bundle.

    Args:
        path: the file or folder.
        config: of the model; by default its sizes are those of the tensors, and its heads those of the folder's
            ``open_clip_config.json``, or 64 wide (8 for the image's queries) where there is no such file.

    Returns:
        The model in float32 and eval mode, and where it came from.

    Raises:
        InputError: if it is neither, or any tensor is missing, unexpected or wrong.
    """
    path = Path(path)
    if is_bundle(path):
        held, bundle = open_bundle(path, MAKERS)
        assert isinstance(held, CoCa)
        return held.eval(), Origin("bundle", bundle.source, bundle.labels, bundle.preprocessing)
    checkpoint = read(path)
    folder = checkpoint.path.parent
    said = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    made = config or _config(checkpoint.tensors, section(said, "model_cfg"), checkpoint.path)
    table = open_clip(made)
    model, source = build(lambda: CoCa(made), table, checkpoint.tensors, checkpoint.meta)
    return model.eval(), Origin(table.name, source, (), section(said, "preprocess_cfg"))


def export_coca(model: CoCa, path: Path | str, source: Source | None = None) -> None:
    """Write a CoCa model's weights as safetensors in open_clip's names; atomically.

    Args:
        model: the model.
        path: of the file.
        source: from :func:`load_coca`: dtypes are those of the source.
    """
    write_safetensors(path, open_clip(model.config).export(model.state_dict(), source))


def _config(tensors: Mapping[str, Tensor], said: Mapping[str, Any], path: Path) -> CoCaConfig:
    try:
        kernel, places = tensors["visual.conv1.weight"].shape, tensors["visual.positional_embedding"].shape[0]
        words = tensors["text.token_embedding.weight"].shape
        queries, embed = tensors["visual.attn_pool.query"].shape
        context = tensors["text.positional_embedding"].shape[0] - 1
        channels, patch = kernel[1], kernel[2]
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path} is no CoCa model with attention pooling: expected one of open_clip") from error
    vision, text, decoder = (section(said, f"{name}_cfg") for name in ("vision", "text", "multimodal"))
    side = isqrt(places - 1) * patch
    image = replace(
        CoCaConfig().image,
        image=(side, side),
        patch=patch,
        channels=channels,
        dim=kernel[0],
        depth=_depth(tensors, "visual.transformer.resblocks."),
        heads=max(1, kernel[0] // (vision.get("head_width") or 64)),
    )
    return CoCaConfig(
        image=image,
        embed=embed,
        queries=queries,
        pool_heads=vision.get("attn_pooler_heads", 8),
        vocab=words[0],
        context=context,
        dim=words[1],
        depth=_depth(tensors, "text.transformer.resblocks."),
        heads=text.get("heads", max(1, words[1] // 64)),
        decoder_depth=_depth(tensors, "text_decoder.resblocks."),
        decoder_heads=decoder.get("heads", max(1, words[1] // 64)),
    )


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)
