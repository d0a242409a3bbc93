"""Whisper's checkpoints: the names of OpenAI, of Hugging Face (distil-whisper too) and of CTranslate2, both ways."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError
from core.weights import (
    ZEROS,
    Checkpoint,
    Fixed,
    Makers,
    Rules,
    ScaledRows,
    Source,
    Split,
    Table,
    Tied,
    build,
    from_plain,
    is_bundle,
    open_bundle,
    read,
    write_ctranslate2,
    write_safetensors,
)
from core.weights.files import read_json

from .alignment_heads import Pairs, alignment_heads
from .whisper import Whisper, WhisperConfig

__all__ = ["HUGGING_FACE", "MAKERS", "OPENAI", "WhisperInfo", "ctranslate2", "export_whisper", "load_whisper"]

OPENAI = Table(
    "openai",
    {
        "encoder.conv1.{leaf}": "encoder.conv1.{leaf}",
        "encoder.conv2.{leaf}": "encoder.conv2.{leaf}",
        "encoder.positional_embedding": "encoder.positions.table",
        "encoder.ln_post.{leaf}": "encoder.norm.{leaf}",
        "decoder.token_embedding.weight": "decoder.tokens.weight",
        "decoder.positional_embedding": "decoder.positions.table",
        "decoder.ln.{leaf}": "decoder.norm.{leaf}",
        "{side}.blocks.{i}.attn_ln.{leaf}": "{side}.blocks.{i}.attn.norm.{leaf}",
        "{side}.blocks.{i}.attn.query.{leaf}": "{side}.blocks.{i}.attn.fn.q.proj.{leaf}",
        "{side}.blocks.{i}.attn.key.{leaf}": "{side}.blocks.{i}.attn.fn.k.proj.{leaf}",
        "{side}.blocks.{i}.attn.value.{leaf}": "{side}.blocks.{i}.attn.fn.v.proj.{leaf}",
        "{side}.blocks.{i}.attn.out.{leaf}": "{side}.blocks.{i}.attn.fn.out.{leaf}",
        "{side}.blocks.{i}.cross_attn_ln.{leaf}": "{side}.blocks.{i}.cross.norm.{leaf}",
        "{side}.blocks.{i}.cross_attn.query.{leaf}": "{side}.blocks.{i}.cross.fn.q.proj.{leaf}",
        "{side}.blocks.{i}.cross_attn.key.{leaf}": "{side}.blocks.{i}.cross.fn.k.proj.{leaf}",
        "{side}.blocks.{i}.cross_attn.value.{leaf}": "{side}.blocks.{i}.cross.fn.v.proj.{leaf}",
        "{side}.blocks.{i}.cross_attn.out.{leaf}": "{side}.blocks.{i}.cross.fn.out.{leaf}",
        "{side}.blocks.{i}.mlp_ln.{leaf}": "{side}.blocks.{i}.mlp.norm.{leaf}",
        "{side}.blocks.{i}.mlp.0.{leaf}": "{side}.blocks.{i}.mlp.fn.fc1.{leaf}",
        "{side}.blocks.{i}.mlp.2.{leaf}": "{side}.blocks.{i}.mlp.fn.fc2.{leaf}",
    },
)

HUGGING_FACE = Table(
    "huggingface",
    {
        "model.encoder.conv1.{leaf}": "encoder.conv1.{leaf}",
        "model.encoder.conv2.{leaf}": "encoder.conv2.{leaf}",
        "model.encoder.embed_positions.weight": "encoder.positions.table",
        "model.encoder.layer_norm.{leaf}": "encoder.norm.{leaf}",
        "model.decoder.embed_tokens.weight": "decoder.tokens.weight",
        "model.decoder.embed_positions.weight": "decoder.positions.table",
        "model.decoder.layer_norm.{leaf}": "decoder.norm.{leaf}",
        "model.{side}.layers.{i}.self_attn_layer_norm.{leaf}": "{side}.blocks.{i}.attn.norm.{leaf}",
        "model.{side}.layers.{i}.self_attn.q_proj.{leaf}": "{side}.blocks.{i}.attn.fn.q.proj.{leaf}",
        "model.{side}.layers.{i}.self_attn.k_proj.{leaf}": "{side}.blocks.{i}.attn.fn.k.proj.{leaf}",
        "model.{side}.layers.{i}.self_attn.v_proj.{leaf}": "{side}.blocks.{i}.attn.fn.v.proj.{leaf}",
        "model.{side}.layers.{i}.self_attn.out_proj.{leaf}": "{side}.blocks.{i}.attn.fn.out.{leaf}",
        "model.{side}.layers.{i}.encoder_attn_layer_norm.{leaf}": "{side}.blocks.{i}.cross.norm.{leaf}",
        "model.{side}.layers.{i}.encoder_attn.q_proj.{leaf}": "{side}.blocks.{i}.cross.fn.q.proj.{leaf}",
        "model.{side}.layers.{i}.encoder_attn.k_proj.{leaf}": "{side}.blocks.{i}.cross.fn.k.proj.{leaf}",
        "model.{side}.layers.{i}.encoder_attn.v_proj.{leaf}": "{side}.blocks.{i}.cross.fn.v.proj.{leaf}",
        "model.{side}.layers.{i}.encoder_attn.out_proj.{leaf}": "{side}.blocks.{i}.cross.fn.out.{leaf}",
        "model.{side}.layers.{i}.final_layer_norm.{leaf}": "{side}.blocks.{i}.mlp.norm.{leaf}",
        "model.{side}.layers.{i}.fc1.{leaf}": "{side}.blocks.{i}.mlp.fn.fc1.{leaf}",
        "model.{side}.layers.{i}.fc2.{leaf}": "{side}.blocks.{i}.mlp.fn.fc2.{leaf}",
        "proj_out.weight": Tied("model.decoder.embed_tokens.weight"),
    },
)

_CTRANSLATE2: Rules = {
    "encoder/conv1/{leaf}": "encoder.conv1.{leaf}",
    "encoder/conv2/{leaf}": "encoder.conv2.{leaf}",
    "encoder/position_encodings/encodings": "encoder.positions.table",
    "decoder/position_encodings/encodings": "decoder.positions.table",
    "decoder/embeddings/weight": "decoder.tokens.weight",
    "decoder/projection/weight": Tied("decoder/embeddings/weight"),
    "{side}/layer_norm/gamma": "{side}.norm.weight",
    "{side}/layer_norm/beta": "{side}.norm.bias",
    "{side}/layer_{i}/self_attention/layer_norm/gamma": "{side}.blocks.{i}.attn.norm.weight",
    "{side}/layer_{i}/self_attention/layer_norm/beta": "{side}.blocks.{i}.attn.norm.bias",
    "{side}/layer_{i}/self_attention/linear_0/weight": Split(
        "{side}.blocks.{i}.attn.fn.q.proj.weight",
        "{side}.blocks.{i}.attn.fn.k.proj.weight",
        "{side}.blocks.{i}.attn.fn.v.proj.weight",
    ),
    "{side}/layer_{i}/self_attention/linear_0/bias": Split(
        "{side}.blocks.{i}.attn.fn.q.proj.bias", ZEROS, "{side}.blocks.{i}.attn.fn.v.proj.bias"
    ),
    "{side}/layer_{i}/self_attention/linear_1/{leaf}": "{side}.blocks.{i}.attn.fn.out.{leaf}",
    "{side}/layer_{i}/attention/layer_norm/gamma": "{side}.blocks.{i}.cross.norm.weight",
    "{side}/layer_{i}/attention/layer_norm/beta": "{side}.blocks.{i}.cross.norm.bias",
    "{side}/layer_{i}/attention/linear_0/{leaf}": "{side}.blocks.{i}.cross.fn.q.proj.{leaf}",
    "{side}/layer_{i}/attention/linear_1/weight": Split(
        "{side}.blocks.{i}.cross.fn.k.proj.weight", "{side}.blocks.{i}.cross.fn.v.proj.weight"
    ),
    "{side}/layer_{i}/attention/linear_1/bias": Split(ZEROS, "{side}.blocks.{i}.cross.fn.v.proj.bias"),
    "{side}/layer_{i}/attention/linear_2/{leaf}": "{side}.blocks.{i}.cross.fn.out.{leaf}",
    "{side}/layer_{i}/ffn/layer_norm/gamma": "{side}.blocks.{i}.mlp.norm.weight",
    "{side}/layer_{i}/ffn/layer_norm/beta": "{side}.blocks.{i}.mlp.norm.bias",
    "{side}/layer_{i}/ffn/linear_0/{leaf}": "{side}.blocks.{i}.mlp.fn.fc1.{leaf}",
    "{side}/layer_{i}/ffn/linear_1/{leaf}": "{side}.blocks.{i}.mlp.fn.fc2.{leaf}",
    "decoder/activation": Fixed(3, torch.int8),  # GELU
    "decoder/alibi": Fixed(0, torch.int8),
    "decoder/alibi_use_positive_positions": Fixed(0, torch.int8),
    "decoder/alignment_heads": Fixed(1, torch.int16),  # of translation models; Whisper's stand in config.json
    "decoder/alignment_layer": Fixed(-1, torch.int16),
    "decoder/pre_norm": Fixed(1, torch.int8),
    "decoder/scale_alibi": Fixed(0, torch.int8),
    "decoder/scale_embeddings": Fixed(0, torch.int8),
    "decoder/start_from_zero_embedding": Fixed(0, torch.int8),
}


def ctranslate2(config: WhisperConfig) -> Table:
    """Return the table of CTranslate2's names, which keep the numbers of heads among the weights."""
    heads = {
        "encoder/num_heads": Fixed(config.audio_heads, torch.int16),
        "decoder/num_heads": Fixed(config.text_heads, torch.int16),
    }
    return Table("ctranslate2", {**_CTRANSLATE2, **heads}, ScaledRows())


_SPEC = {"spec": "WhisperSpec", "revision": 3, "aliases": {"decoder/projection/weight": "decoder/embeddings/weight"}}

# their names of our fields, and what else their config may not say otherwise
_DIMS = {
    "mels": "n_mels",
    "vocab": "n_vocab",
    "audio_context": "n_audio_ctx",
    "audio_dim": "n_audio_state",
    "audio_heads": "n_audio_head",
    "audio_layers": "n_audio_layer",
    "text_context": "n_text_ctx",
    "text_dim": "n_text_state",
    "text_heads": "n_text_head",
    "text_layers": "n_text_layer",
}
_HF_CONFIG = {
    "mels": "num_mel_bins",
    "vocab": "vocab_size",
    "audio_context": "max_source_positions",
    "audio_dim": "d_model",
    "audio_heads": "encoder_attention_heads",
    "audio_layers": "encoder_layers",
    "text_context": "max_target_positions",
    "text_dim": "d_model",
    "text_heads": "decoder_attention_heads",
    "text_layers": "decoder_layers",
}
_HF_FIXED = {"model_type": "whisper", "activation_function": "gelu", "scale_embedding": False}

MAKERS: Makers = {"audio.Whisper": lambda config: Whisper(from_plain(WhisperConfig, config))}
"""What a bundle of this family may hold."""


@dataclass(frozen=True)
class WhisperInfo:
    """Where a Whisper came from.

    Attributes:
        layout: ``"openai"``, ``"huggingface"``, ``"ctranslate2"`` or ``"bundle"``.
        source: for :func:`export_whisper`; None for a bundle of a model that was never imported.
        hints: what the folder says about decoding (alignment heads, suppressed tokens), in the words of the layout.
    """

    layout: str
    source: Source | None
    hints: dict[str, Any] = field(default_factory=dict)


def load_whisper(path: Path | str) -> tuple[Whisper, WhisperInfo]:
    """Load a Whisper from a file or folder of OpenAI, Hugging Face or CTranslate2, or from a bundle.

    Returns:
        The model in float32, and where it came from.

    Raises:
        InputError: if it is none of these, or any tensor is missing, unexpected or wrong.
    """
    path = Path(path)
    if is_bundle(path):
        whisper, bundle = open_bundle(path, MAKERS)
        assert isinstance(whisper, Whisper)
        return whisper, WhisperInfo("bundle", bundle.source, bundle.notes)
    checkpoint = read(path)
    folder = checkpoint.path.parent
    names = checkpoint.tensors
    if checkpoint.format == "ctranslate2":
        config = _config_of_ctranslate2(checkpoint)
        table, hints = ctranslate2(config), "config.json"
    elif any(name.startswith("decoder.blocks.") for name in names):
        config, table, hints = _config_of_openai(checkpoint), OPENAI, ""
    elif any(name.startswith("model.decoder.") for name in names):
        config, table, hints = _config_of_hugging_face(folder), HUGGING_FACE, "generation_config.json"
    else:
        raise InputError(f"{checkpoint.path} is no Whisper: expected one of OpenAI, Hugging Face or CTranslate2")
    said = read_json(folder / hints) if hints and (folder / hints).exists() else {}
    heads = said.get("alignment_heads") or alignment_heads(config, checkpoint.path.stem)
    config = replace(config, alignment_heads=_checked_heads(heads, config, folder / hints))
    model, source = build(lambda: Whisper(config), table, names, checkpoint.meta)
    return model, WhisperInfo(table.name, source, said)


def export_whisper(model: Whisper, path: Path | str, source: Source | None = None, layout: str = "huggingface") -> None:
    """Write a Whisper's weights in the layout that they came in, or in another; atomically.

    CTranslate2's is a ``model.bin``, any other a safetensors file.

    Args:
        model: the model.
        path: of the file.
        source: from :func:`load_whisper`: dtypes, scales and tied tensors are those of the source.
        layout: ``"openai"``, ``"huggingface"`` or ``"ctranslate2"``, where there is no source.
    """
    layout = layout if source is None else source.table
    tables = {"openai": OPENAI, "huggingface": HUGGING_FACE, "ctranslate2": ctranslate2(model.config)}
    if layout not in tables:
        raise InputError(f"no Whisper layout {layout!r}: choose one of {', '.join(tables)}")
    tensors = tables[layout].export(model.state_dict(), source)
    if layout == "ctranslate2":
        write_ctranslate2(Path(path), tensors, _SPEC if source is None else source.meta)
        return
    dims = {theirs: getattr(model.config, ours) for ours, theirs in _DIMS.items()}
    write_safetensors(path, tensors, {"dims": json.dumps(dims)} if layout == "openai" else None)


def _checked_heads(heads: Any, config: WhisperConfig, path: Path) -> Pairs:
    """Heads that a file names, if the decoder has them."""
    pairs = from_plain(WhisperConfig, {**asdict(config), "alignment_heads": heads}, str(path)).alignment_heads
    for layer, head in pairs:
        if not (0 <= layer < config.text_layers and 0 <= head < config.text_heads):
            raise InputError(
                f"{path} names head {head} of layer {layer} to align words with: "
                f"the decoder has {config.text_layers} layers of {config.text_heads} heads"
            )
    return pairs


def _config_of_openai(checkpoint: Checkpoint) -> WhisperConfig:
    dims = checkpoint.meta.get("dims")
    if isinstance(dims, str):  # safetensors keeps text only
        try:
            dims = json.loads(dims)
        except ValueError:
            dims = None
    return _translated(dims, _DIMS, f"the dims of {checkpoint.path}")


def _config_of_hugging_face(folder: Path) -> WhisperConfig:
    path = folder / "config.json"
    said = read_json(path)
    for name, value in _HF_FIXED.items():
        if said.get(name, value) != value:
            raise InputError(f"{path} is no Whisper that is known: {name} is {said[name]!r}, expected {value!r}")
    config = _translated(said, _HF_CONFIG, str(path))
    for side in ("encoder", "decoder"):
        width = said.get(f"{side}_ffn_dim", 4 * config.audio_dim)
        if width != 4 * config.audio_dim:
            raise InputError(f"{path} is no Whisper that is known: {side}_ffn_dim is {width}, expected 4 * d_model")
    return config


def _translated(said: Any, names: Mapping[str, str], what: str) -> WhisperConfig:
    lacking = [theirs for theirs in names.values() if not isinstance(said, dict) or theirs not in said]
    if lacking:
        raise InputError(f"{what} lack{'s' if what.endswith('.json') else ''} {', '.join(lacking)}: not a Whisper")
    return from_plain(WhisperConfig, {ours: said[theirs] for ours, theirs in names.items()}, what)


def _config_of_ctranslate2(checkpoint: Checkpoint) -> WhisperConfig:
    """The format has no list of sizes: they are the shapes of its tensors."""
    path, tensors = checkpoint.path, checkpoint.tensors
    if checkpoint.meta.get("spec") != _SPEC["spec"]:
        raise InputError(f"{path} holds a {checkpoint.meta.get('spec')}, expected a {_SPEC['spec']}")

    def shape(name: str, axes: int) -> tuple[int, ...]:
        tensor: Tensor | None = tensors.get(name)
        if tensor is None or tensor.ndim != axes:
            raise InputError(f"{path} is no Whisper: {name} is missing or has not {axes} axes")
        return tuple(tensor.shape)

    def layers(side: str) -> int:
        return len({found[1] for name in tensors if (found := re.match(rf"{side}/layer_(\d+)/", name))})

    def heads(side: str) -> int:
        shape(f"{side}/num_heads", 0)
        return int(tensors[f"{side}/num_heads"])

    dim, mels, _ = shape("encoder/conv1/weight", 3)
    vocab, text_dim = shape("decoder/embeddings/weight", 2)
    return WhisperConfig(
        mels=mels,
        vocab=vocab,
        audio_context=shape("encoder/position_encodings/encodings", 2)[0],
        audio_dim=dim,
        audio_heads=heads("encoder"),
        audio_layers=layers("encoder"),
        text_context=shape("decoder/position_encodings/encodings", 2)[0],
        text_dim=text_dim,
        text_heads=heads("decoder"),
        text_layers=layers("decoder"),
    )
