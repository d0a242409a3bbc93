"""Decoder language models from Hugging Face's folders and our bundles: in, and out as they came."""

from pathlib import Path

from core.weights import Makers, Source, build, from_plain, is_bundle, open_bundle, read, write_safetensors
from core.weights.files import read_json
from core.weights.published import Origin
from core.weights.remap import Table
from multimodal.decoder import Decoder, DecoderConfig
from multimodal.decoder_config import KINDS, config_of_hugging_face
from multimodal.decoder_names import gpt2, llama, table_for

__all__ = ["MAKERS", "export_decoder", "is_decoder", "load_decoder"]

MAKERS: Makers = {"multimodal.Decoder": lambda config: Decoder(from_plain(DecoderConfig, config))}
"""What a bundle of this family may hold."""


def load_decoder(path: Path | str, config: DecoderConfig | None = None) -> tuple[Decoder, Origin]:
    """Load a language model from a folder of Hugging Face (also one of its files), or from a bundle.

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
        assert isinstance(held, Decoder)
        return held.eval(), Origin("bundle", bundle.source)
    said = (path if path.is_dir() else path.parent) / "config.json"
    made = config_of_hugging_face(read_json(said), said) if config is None else config
    checkpoint = read(path)
    table = table_for(made, checkpoint.tensors)
    model, source = build(lambda: Decoder(made), table, checkpoint.tensors, checkpoint.meta)
    return model.eval(), Origin(table.name, source)


def export_decoder(model: Decoder, path: Path | str, source: Source | None = None) -> None:
    """Write a model's weights as safetensors in Hugging Face's names; atomically.

    Args:
        model: the model.
        path: of the file.
        source: from :func:`load_decoder`: dtypes and tied tensors are those of the source.
    """
    write_safetensors(path, _table(model.config, source).export(model.state_dict(), source))


def is_decoder(path: Path | str) -> bool:
    """Whether a folder holds a language model that :func:`load_decoder` knows; nothing is read but its config.json."""
    said = Path(path) / "config.json"
    if not said.is_file():
        return False
    found = read_json(said)
    return found.get("model") in MAKERS or ("sensorium_bundle" not in found and found.get("model_type") in KINDS)


def _table(config: DecoderConfig, source: Source | None) -> Table:
    name = "" if source is None else source.table
    if config.positions == "learned":
        return gpt2(config, prefix="" if name == "openai-gpt2" else "transformer.")
    return llama(config, mixtral=name == "huggingface-mixtral")
