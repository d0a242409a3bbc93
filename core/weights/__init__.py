"""Weights in and out: name tables, file formats, downloads, bundles."""

from .bundle import Bundle, Makers, is_bundle, open_bundle, read_bundle, save_bundle
from .ctranslate2 import ScaledRows, read_ctranslate2, write_ctranslate2
from .fetch import cache_folder, fetch
from .formats import Checkpoint, read, weight_files, write_safetensors
from .plain import from_plain
from .remap import Rules, Table, build, check, load_into, nested
from .rules import ZEROS, Fixed, Reshape, Split, Squeeze, Tied, Transpose, Zeros
from .source import Source

__all__ = [
    "ZEROS",
    "Bundle",
    "Checkpoint",
    "Fixed",
    "Makers",
    "Reshape",
    "Rules",
    "ScaledRows",
    "Source",
    "Split",
    "Squeeze",
    "Table",
    "Tied",
    "Transpose",
    "Zeros",
    "build",
    "cache_folder",
    "check",
    "fetch",
    "from_plain",
    "is_bundle",
    "load_into",
    "nested",
    "open_bundle",
    "read",
    "read_bundle",
    "read_ctranslate2",
    "save_bundle",
    "weight_files",
    "write_ctranslate2",
    "write_safetensors",
]
