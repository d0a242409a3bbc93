"""Perceiver, Perceiver IO and Perceiver AR on the shared block."""

from .byte_tokenizer import ByteTokenizer
from .config import (
    ClassOutput,
    ConvInput,
    DenseOutput,
    Fourier,
    LabelInput,
    LabelQuery,
    Learned,
    Part,
    PerceiverConfig,
    SeveralInput,
    SeveralOutput,
    SignalInput,
    SignalQuery,
    TextInput,
    TextOutput,
)
from .model import Perceiver

__all__ = [
    "ByteTokenizer",
    "ClassOutput",
    "ConvInput",
    "DenseOutput",
    "Fourier",
    "LabelInput",
    "LabelQuery",
    "Learned",
    "Part",
    "Perceiver",
    "PerceiverConfig",
    "SeveralInput",
    "SeveralOutput",
    "SignalInput",
    "SignalQuery",
    "TextInput",
    "TextOutput",
]
