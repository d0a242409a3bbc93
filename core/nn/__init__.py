"""The blocks that every model is made of. Knows PyTorch only."""

from . import kernels
from .attention import Attention, CrossAttention, Heads, attention, cross_attention
from .block import Block, Each, Modulated, PostNorm, Repeat, Replace, Residual, Stack, direct, recomputed
from .cache import Cache, Growing, Once, Ring, Slot, Static
from .context import Ctx, Memory, Out, Tokens
from .export import register_for_export
from .feedforward import GEGLU, GatedMlp, Mlp, SwiGLU
from .init import trunc_normal
from .joint import Joint, Streams
from .mask import Causal, Dense, Full, Mask, Prefix, Sight, Window
from .norm import DropPath, LayerNorm, LayerScale, Modulation, RMSNorm
from .packing import pack, packed_tokens, padded_tokens, unpack
from .patch import PatchEmbed, patch_grid, patchify, unpatchify
from .position import (
    ALiBi,
    FixedPositions,
    GridBuckets,
    LearnedPositions,
    LogBuckets,
    RelativeBias,
    Rope,
    grid_coords,
    halves,
    interpolated,
    ntk,
    pairs,
    rope_frequencies,
    sinusoids,
    sinusoids_2d,
    yarn,
)
from .window import RollThenPad, Windowed

__all__ = [
    "GEGLU",
    "ALiBi",
    "Attention",
    "Block",
    "Cache",
    "Causal",
    "CrossAttention",
    "Ctx",
    "Dense",
    "DropPath",
    "Each",
    "FixedPositions",
    "Full",
    "GatedMlp",
    "GridBuckets",
    "Growing",
    "Heads",
    "Joint",
    "LayerNorm",
    "LayerScale",
    "LearnedPositions",
    "LogBuckets",
    "Mask",
    "Memory",
    "Mlp",
    "Modulated",
    "Modulation",
    "Once",
    "Out",
    "PatchEmbed",
    "PostNorm",
    "Prefix",
    "RMSNorm",
    "RelativeBias",
    "Repeat",
    "Replace",
    "Residual",
    "Ring",
    "RollThenPad",
    "Rope",
    "Sight",
    "Slot",
    "Stack",
    "Static",
    "Streams",
    "SwiGLU",
    "Tokens",
    "Window",
    "Windowed",
    "attention",
    "cross_attention",
    "direct",
    "grid_coords",
    "halves",
    "interpolated",
    "kernels",
    "ntk",
    "pack",
    "packed_tokens",
    "padded_tokens",
    "pairs",
    "patch_grid",
    "patchify",
    "recomputed",
    "register_for_export",
    "rope_frequencies",
    "sinusoids",
    "sinusoids_2d",
    "trunc_normal",
    "unpack",
    "unpatchify",
    "yarn",
]
