"""The blocks that every model is made of. Knows PyTorch only."""

from . import kernels
from .attention import Attention, CrossAttention, Heads, attention, coordinates, cross_attention
from .block import (
    Block,
    Each,
    Modulated,
    PostNorm,
    Repeat,
    Replace,
    Residual,
    Stack,
    Stochastic,
    direct,
    recomputed,
)
from .cache import Cache, Growing, Once, Ring, Slot, Static
from .context import Ctx, Memory, Out, Tokens
from .continuous import ContinuousBias
from .cosine import ScaledUnit, Unit
from .export import register_for_export
from .feedforward import GEGLU, GatedMlp, Mlp, QuickGELU, SwiGLU
from .fourier import FourierPositions, from_border_to_border, points_of
from .init import trunc_normal
from .joint import Joint, OneSided, Streams
from .mask import Causal, Dense, Full, Mask, Prefix, Sight, Window
from .moe import MixtureOfExperts
from .norm import AdaptiveNorm, DropPath, LayerNorm, LayerScale, Modulation, RMSNorm
from .packing import pack, packed_tokens, padded_tokens, unpack
from .paged import BlockTable, OutOfPages, Paged, Pages
from .patch import PatchEmbed, patch_grid, patchify, unpatchify
from .position import (
    ALiBi,
    FixedPositions,
    GridBuckets,
    GridRope,
    LearnedPositions,
    LogBuckets,
    RelativeBias,
    Rope,
    grid_coords,
    halves,
    interpolated,
    ntk,
    pairs,
    resampled,
    rope_frequencies,
    sinusoids,
    sinusoids_2d,
    yarn,
)
from .stem import ConvStem
from .tied import TiedEmbedding
from .vocabulary import token_losses
from .window import RollThenPad, Windowed

__all__ = [
    "GEGLU",
    "ALiBi",
    "AdaptiveNorm",
    "Attention",
    "Block",
    "BlockTable",
    "Cache",
    "Causal",
    "ContinuousBias",
    "ConvStem",
    "CrossAttention",
    "Ctx",
    "Dense",
    "DropPath",
    "Each",
    "FixedPositions",
    "FourierPositions",
    "Full",
    "GatedMlp",
    "GridBuckets",
    "GridRope",
    "Growing",
    "Heads",
    "Joint",
    "LayerNorm",
    "LayerScale",
    "LearnedPositions",
    "LogBuckets",
    "Mask",
    "Memory",
    "MixtureOfExperts",
    "Mlp",
    "Modulated",
    "Modulation",
    "Once",
    "OneSided",
    "Out",
    "OutOfPages",
    "Paged",
    "Pages",
    "PatchEmbed",
    "PostNorm",
    "Prefix",
    "QuickGELU",
    "RMSNorm",
    "RelativeBias",
    "Repeat",
    "Replace",
    "Residual",
    "Ring",
    "RollThenPad",
    "Rope",
    "ScaledUnit",
    "Sight",
    "Slot",
    "Stack",
    "Static",
    "Stochastic",
    "Streams",
    "SwiGLU",
    "TiedEmbedding",
    "Tokens",
    "Unit",
    "Window",
    "Windowed",
    "attention",
    "coordinates",
    "cross_attention",
    "direct",
    "from_border_to_border",
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
    "points_of",
    "recomputed",
    "register_for_export",
    "resampled",
    "rope_frequencies",
    "sinusoids",
    "sinusoids_2d",
    "token_losses",
    "trunc_normal",
    "unpack",
    "unpatchify",
    "yarn",
]
