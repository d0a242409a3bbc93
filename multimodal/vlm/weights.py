"""Vision-language models from Hugging Face's folders and our bundles: in, and out as they came."""

from pathlib import Path

from core.errors import InputError
from core.weights import Makers, Source, build, from_plain, is_bundle, open_bundle, read, write_safetensors
from core.weights.files import read_json
from core.weights.published import Origin, preprocessing
from core.weights.remap import Table
from multimodal.vlm.config import Gated, GatedModelConfig, Projected, ProjectedConfig
from multimodal.vlm.hugging_face import KINDS, vlm_config
from multimodal.vlm.names import idefics, idefics3, llava

__all__ = ["MAKERS", "VLM", "export_vlm", "is_vlm", "load_vlm"]

VLM = Projected | Gated
MAKERS: Makers = {
    "multimodal.Projected": lambda config: Projected(from_plain(ProjectedConfig, config)),
    "multimodal.Gated": lambda config: Gated(from_plain(GatedModelConfig, config)),
}
"""What a bundle of this family may hold."""


def load_vlm(path: Path | str, config: ProjectedConfig | GatedModelConfig | None = None) -> tuple[VLM, Origin]:
    """Load a vision-language model from a folder of Hugging Face (also one of its files), or from a bundle.

    Args:
        path: the folder or file.
        config: of the model; by default what the ``config.json`` beside the weights says.

    Returns:
        The model in float32 and eval mode, and where it came from.

    Raises:
        InputError: if it is neither, of a kind that is not known, or any tensor is missing, unexpected or wrong.
    """
    path = Path(path)
    if is_bundle(path):
        held, bundle = open_bundle(path, MAKERS)
        assert isinstance(held, Projected | Gated)
        return held.eval(), Origin("bundle", bundle.source, bundle.labels, bundle.preprocessing)
    folder = path if path.is_dir() else path.parent
    said = folder / "config.json"
    made = vlm_config(read_json(said), said) if config is None else config
    checkpoint = read(path)
    names = checkpoint.tensors.keys()
    if isinstance(made, GatedModelConfig):
        table = idefics(made)
    elif made.projector == "shuffle":
        table = idefics3(made)
    else:
        beginning = "model." if any(name.startswith("model.vision_tower.") for name in names) else ""
        tower = "vision_model." if any(".vision_model." in name for name in names) else ""
        table = llava(made, beginning, tower, any(name.endswith(".position_ids") for name in names))
    model, source = build(lambda: _made(made), table, checkpoint.tensors, checkpoint.meta)
    return model.eval(), Origin(table.name, source, (), preprocessing({}, folder))


def export_vlm(model: VLM, path: Path | str, source: Source | None = None) -> None:
    """Write a model's weights as safetensors in Hugging Face's names; atomically.

    Args:
        model: the model.
        path: of the file.
        source: from :func:`load_vlm`: names, dtypes and tied tensors are those of the source.

    Raises:
        InputError: if one of the weights has no place there.
    """
    write_safetensors(path, _table(model, "" if source is None else source.table).export(model.state_dict(), source))


def is_vlm(path: Path | str) -> bool:
    """Whether a folder holds a model that :func:`load_vlm` knows; nothing is read but its config.json."""
    said = Path(path) / "config.json"
    if not said.is_file():
        return False
    try:
        found = read_json(said)
    except InputError:
        return False
    return found.get("model") in MAKERS or ("sensorium_bundle" not in found and found.get("model_type") in KINDS)


def _made(config: ProjectedConfig | GatedModelConfig) -> VLM:
    return Gated(config) if isinstance(config, GatedModelConfig) else Projected(config)


def _table(model: VLM, name: str) -> Table:
    if isinstance(model, Gated):
        return idefics(model.config)
    if model.config.projector == "shuffle":
        return idefics3(model.config)
    parts = name.split("-")
    return llava(
        model.config,
        "model." if "5" in parts else "",
        "vision_model." if "nested" in parts else "",
        "numbered" in parts,
    )
