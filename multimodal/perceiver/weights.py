"""Perceiver checkpoints of Hugging Face and our bundles: in, and out as they came."""

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import InputError
from core.weights import Makers, Source, build, from_plain, is_bundle, open_bundle, read, write_safetensors
from core.weights.published import Origin, labels, preprocessing, rows, said_by
from multimodal.perceiver.config import (
    ClassOutput,
    ConvInput,
    DenseOutput,
    Fourier,
    Input,
    LabelInput,
    LabelQuery,
    Learned,
    Output,
    Part,
    PerceiverConfig,
    SeveralInput,
    SeveralOutput,
    SignalInput,
    SignalQuery,
    TextInput,
    TextOutput,
)
from multimodal.perceiver.model import Perceiver
from multimodal.perceiver.names import hugging_face

__all__ = ["MAKERS", "config_of", "export_perceiver", "load_perceiver"]

MAKERS: Makers = {"multimodal.Perceiver": lambda config: Perceiver(from_plain(PerceiverConfig, config))}
"""What a bundle of this family may hold."""

# what a config.json that leaves a field out means by that
_DEFAULTS: dict[str, Any] = {
    "num_latents": 256,
    "d_latents": 1280,
    "d_model": 768,
    "num_blocks": 1,
    "num_self_attends_per_block": 26,
    "num_self_attention_heads": 8,
    "num_cross_attention_heads": 8,
    "qk_channels": None,
    "v_channels": None,
    "cross_attention_shape_for_attention": "kv",
    "self_attention_widening_factor": 1,
    "cross_attention_widening_factor": 1,
    "use_query_residual": True,
    "vocab_size": 262,
    "max_position_embeddings": 2048,
    "image_size": 56,
    "train_size": (368, 496),
    "num_frames": 16,
    "audio_samples_per_frame": 1920,
    "samples_per_patch": 16,
    "output_shape": (1, 16, 224, 224),
    "output_num_channels": 512,
    "_label_trainable_num_channels": 1024,
}
_WIDTHS: dict[Any, Any] = {"kv": "memory", "q": "latents"}


def load_perceiver(path: Path | str, config: PerceiverConfig | None = None) -> tuple[Perceiver, Origin]:
    """Load a Perceiver from a file or folder of Hugging Face, or from a bundle.

    Args:
        path: the file or folder.
        config: of the model; by default that of the ``config.json`` beside the weights.

    Returns:
        The model in float32 and eval mode, and where it came from.

    Raises:
        InputError: if it is neither, or any tensor is missing, unexpected or wrong.
    """
    path = Path(path)
    if is_bundle(path):
        held, bundle = open_bundle(path, MAKERS)
        assert isinstance(held, Perceiver)
        return held.eval(), Origin("bundle", bundle.source, bundle.labels, bundle.preprocessing)
    checkpoint = read(path)
    folder = checkpoint.path.parent
    said = said_by(folder, needed=config is None)
    made = config or config_of(said, checkpoint.tensors, folder / "config.json")
    table = hugging_face(made)
    model, source = build(lambda: Perceiver(made), table, checkpoint.tensors, checkpoint.meta)
    return model.eval(), Origin(table.name, source, labels(said), preprocessing({}, folder))


def export_perceiver(model: Perceiver, path: Path | str, source: Source | None = None) -> None:
    """Write a Perceiver's weights as safetensors in Hugging Face's names; atomically.

    Args:
        model: the model.
        path: of the file.
        source: from :func:`load_perceiver`: dtypes are those of the source.

    Raises:
        InputError: if Hugging Face has no such Perceiver.
    """
    try:
        table = hugging_face(model.config)
    except ValueError as error:
        raise InputError(str(error)) from error
    write_safetensors(path, table.export(model.state_dict(), source))


def config_of(
    said: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path | str = "config.json"
) -> PerceiverConfig:
    """Return the shape that a config of Hugging Face tells.

    Args:
        said: the config, with its ``architectures``.
        tensors: of the checkpoint, which know the number of classes.
        path: of the config, for messages.

    Raises:
        InputError: if it tells of no Perceiver, or can't be followed.
    """
    named = said.get("architectures")
    kind = named[0] if isinstance(named, list) and named else None
    if kind not in _KINDS:
        raise InputError(f"{path} names the architecture {kind!r}: expected one of {', '.join(_KINDS)}")
    given = {**_DEFAULTS, **said}
    try:
        taken, output = _KINDS[kind](given, tensors)
        return PerceiverConfig(
            input=taken,
            output=output,
            latents=given["num_latents"],
            dim=given["d_latents"],
            depth=given["num_self_attends_per_block"],
            rounds=given["num_blocks"],
            heads=given["num_self_attention_heads"],
            read_heads=given["num_cross_attention_heads"],
            qk_dim=given["qk_channels"],
            v_dim=given["v_channels"],
            read_width=_WIDTHS[given["cross_attention_shape_for_attention"]],
            ratio=given["self_attention_widening_factor"],
            read_ratio=given["cross_attention_widening_factor"],
            residual=bool(given["use_query_residual"]),
        )
    # a config can hold anything where a number should be
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise InputError(f"{path} can't be followed: {error}") from error


_Said = Mapping[str, Any]
_Tensors = Mapping[str, Tensor]


def _text(said: _Said) -> TextInput:
    return TextInput(said["vocab_size"], said["max_position_embeddings"], said["d_model"])


def _classes(tensors: _Tensors) -> ClassOutput:
    return ClassOutput(rows(tensors, "perceiver.decoder.decoder.final_layer.weight"))


def _learned(said: _Said, tensors: _Tensors) -> tuple[Input, Output]:
    side = said["image_size"]
    count = side**2 if isinstance(side, int) else prod(side)
    return SignalInput(3, (1, 1), 256, Learned(count, 256, 256)), _classes(tensors)


def _flow(said: _Said, tensors: _Tensors) -> tuple[Input, Output]:
    height, width = said["train_size"]
    # two frames of 3 x 3 pixels with 3 colours each
    return SignalInput(27, (2, 1, 1), 64, Fourier(64, (height, width))), DenseOutput(2, 100.0)


def _autoencoder(said: _Said, tensors: _Tensors) -> tuple[Input, Output]:
    frames, side, patch = said["num_frames"], said["image_size"], said["samples_per_patch"]
    samples = frames * said["audio_samples_per_frame"]
    sound, video = Fourier(192, (samples,)), Fourier(32, (frames, side, side))
    classes = rows(tensors, "perceiver.output_postprocessor.modalities.label.classifier.weight")
    taken = SeveralInput(
        audio=Part(SignalInput(1, (patch,), None, sound), 0.0),
        image=Part(SignalInput(3, (1, 4, 4), None, video), 0.0),
        label=Part(LabelInput(classes), 1.0),
    )
    output = SeveralOutput(
        audio=SignalQuery((samples // patch,), sound, patch),
        image=SignalQuery(tuple(said["output_shape"][1:]), video, 3),
        label=LabelQuery(classes, said["_label_trainable_num_channels"]),
        width=said["output_num_channels"],
    )
    return taken, output


_KINDS: dict[Any, Callable[[_Said, _Tensors], tuple[Input, Output]]] = {
    "PerceiverForMaskedLM": lambda said, tensors: (_text(said), TextOutput()),
    "PerceiverForSequenceClassification": lambda said, tensors: (_text(said), _classes(tensors)),
    "PerceiverForImageClassificationLearned": _learned,
    "PerceiverForImageClassificationFourier": lambda said, tensors: (
        SignalInput(3, (1, 1), None, Fourier(64, (224, 224))),
        _classes(tensors),
    ),
    "PerceiverForImageClassificationConvProcessing": lambda said, tensors: (
        ConvInput(3, 64, Fourier(64, (56, 56))),
        _classes(tensors),
    ),
    "PerceiverForOpticalFlow": _flow,
    "PerceiverForMultimodalAutoencoding": _autoencoder,
}
