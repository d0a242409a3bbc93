"""What the weights of Perceivers are called by Hugging Face, whose files are DeepMind's converted."""

from typing import Any

from core.weights import Reshape, Table
from core.weights.remap import Rules
from multimodal.perceiver.config import (
    ClassOutput,
    ConvInput,
    DenseOutput,
    Input,
    Learned,
    PerceiverConfig,
    SeveralInput,
    SeveralOutput,
    SignalInput,
    TextInput,
    TextOutput,
)

__all__ = ["hugging_face"]


def hugging_face(config: PerceiverConfig) -> Table:
    """Return the table of Hugging Face's ``PerceiverFor...`` with these inputs and outputs.

    Raises:
        ValueError: if the config reads its input several times: they have no such model.
    """
    if config.reads > 1:
        raise ValueError("Hugging Face has no Perceiver that reads its input several times")
    rules: dict[str, Any] = {
        "perceiver.embeddings.latents": "latents",
        **_layer("perceiver.encoder.cross_attention.", "stages.0.", "cross"),
        **_layer("perceiver.encoder.self_attends.{i}.", "stages.1.stack.{i}.", "attn"),
        **_input("perceiver.input_preprocessor.", "input.", config.input),
        **_output(config),
    }
    return Table("huggingface-perceiver", rules)


def _layer(theirs: str, ours: str, branch: str) -> dict[str, Any]:
    names = {
        "attention.self.layernorm1": f"{branch}.norm",
        "attention.self.query": f"{branch}.fn.q.proj",
        "attention.self.key": f"{branch}.fn.k.proj",
        "attention.self.value": f"{branch}.fn.v.proj",
        "attention.output.dense": f"{branch}.fn.out",
        "layernorm": "mlp.norm",
        "mlp.dense1": "mlp.fn.fc1",
        "mlp.dense2": "mlp.fn.fc2",
    }
    if branch == "cross":
        names["attention.self.layernorm2"] = "cross.fn.pre"
    return {f"{theirs}{old}.{{leaf}}": f"{ours}{new}.{{leaf}}" for old, new in names.items()}


def _input(theirs: str, ours: str, given: Input) -> Rules:
    """The names of an input adapter."""
    rules: dict[str, Any] = {}
    if isinstance(given, TextInput):
        rules = {"embeddings.weight": "tokens.weight", "position_embeddings.weight": "positions.table"}
    elif isinstance(given, SeveralInput):
        rules = {"padding.{name}": "padding.{name}", "mask.{name}": "mask.{name}"}
        for name in ("audio", "image", "label", "text"):
            part = getattr(given, name)
            if part is not None:
                rules |= _input(f"modalities.{name}.", f"parts.{name}.", part.input)
    elif isinstance(given, ConvInput):
        rules = {"convnet.conv.weight": "conv.weight", "convnet.batchnorm.{leaf}": "norm.{leaf}"}
    elif isinstance(given, SignalInput) and given.project is not None:
        if set(given.patch) == {1}:
            shape = (-1, given.channels, 1, 1)
            kernel = Reshape(f"{ours}proj.weight", theirs=shape, ours=(-1, given.channels))
            return {
                f"{theirs}convnet_1x1.weight": kernel,
                f"{theirs}convnet_1x1.bias": f"{ours}proj.bias",
                **_positions(theirs, ours, given),
            }
        rules = {"conv_after_patches.{leaf}": "proj.{leaf}"}
    return {**{theirs + old: ours + new for old, new in rules.items()}, **_positions(theirs, ours, given)}


def _positions(theirs: str, ours: str, given: Input) -> dict[str, str]:
    if not (isinstance(given, SignalInput | ConvInput) and isinstance(given.positions, Learned)):
        return {}
    return {
        f"{theirs}position_embeddings.position_embeddings": f"{ours}positions.table",
        f"{theirs}positions_projection.{{leaf}}": f"{ours}positions.project.{{leaf}}",
    }


def _output(config: PerceiverConfig) -> dict[str, Any]:
    """The names of the output adapter."""
    output = config.output
    inner = "perceiver.decoder." if isinstance(output, TextOutput) else "perceiver.decoder.decoder."
    rules: dict[str, Any] = _layer(f"{inner}decoding_cross_attention.", "output.block.", "cross")
    query, final = f"{inner}output_position_encodings.position_embeddings", f"{inner}final_layer.{{leaf}}"
    if isinstance(output, TextOutput):
        return {**rules, query: "output.query", "embedding_decoder.bias": "output.bias"}
    if isinstance(output, ClassOutput):
        return {**rules, query: "output.query", final: "output.head.{leaf}"}
    if isinstance(output, DenseOutput):
        return {**rules, final: "output.head.{leaf}"}
    assert isinstance(output, SeveralOutput)
    label = "perceiver.decoder.modalities.label.decoder.output_position_encodings.position_embeddings"
    return {
        **rules,
        final: "output.proj.{leaf}",
        label: "output.queries.label.query",
        "perceiver.decoder.padding.{name}": "output.padding.{name}",
        "perceiver.output_postprocessor.modalities.{name}.classifier.{leaf}": "output.heads.{name}.{leaf}",
    }
