"""Perceiver, Perceiver IO and Perceiver AR on the shared block."""

from .autoregressive import PerceiverAR, PerceiverARConfig
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
    "PerceiverAR",
    "PerceiverARConfig",
    "PerceiverConfig",
    "SeveralInput",
    "SeveralOutput",
    "SignalInput",
    "SignalQuery",
    "TextInput",
    "TextOutput",
]
