"""Diffusion Transformer (Peebles and Xie 2022, arXiv:2212.09748). SiT (arXiv:2401.08740) is the same network.

What differs among those that came after is a module or two: rotary positions, normalised queries and keys, SwiGLU,
RMSNorm. ``presets.py`` names the public sizes.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.nn import (
    AdaptiveNorm,
    Block,
    Ctx,
    FixedPositions,
    GridRope,
    LayerNorm,
    Mlp,
    Modulated,
    Modulation,
    PatchEmbed,
    RMSNorm,
    Stack,
    SwiGLU,
    Tokens,
    attention,
    direct,
    grid_coords,
    patch_grid,
    recomputed,
    resampled,
    sinusoids_2d,
    unpatchify,
)
from core.nn.init import xavier_uniform

from .condition import Condition, LabelEmbedding, Labels, TimestepEmbedding

__all__ = ["DiT", "DiTConfig", "Head", "start"]


@dataclass(frozen=True)
class DiTConfig:
    """The shape of a DiT.

    Attributes:
        image: (height, width) of what is denoised, pixels or latents; others are possible, positions are resampled.
        channels: of what is denoised.
        patch: side of a square patch.
        dim, depth, heads: width, number of blocks, number of heads.
        hidden: width of the feed-forward branch, default 4 * dim.
        classes: that a picture can be asked of; 0 = the model is told nothing but the time.
        out_channels: of the result, default ``channels``; twice that for a learned variance.
        spare: channels that the last layer computes beside these and nobody looks at (SiT kept DiT's layer).
        mlp: the feed-forward branch: GELU's tanh approximation, or SwiGLU.
        norm: of the branches, without parameters: LayerNorm or RMSNorm.
        qk_norm: of queries and keys in each head, with parameters (arXiv:2302.05442), or None.
        positions: a fixed table of sines and cosines, or ``"rotary"`` in two dimensions.
        shift: of the frequencies, see :class:`diffusion.condition.TimestepEmbedding`.
        mlp_eps: of the norm before the feed-forward branch; that of all others is 1e-6.
    """

    image: tuple[int, int] = (32, 32)
    channels: int = 4
    patch: int = 2
    dim: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int | None = None
    classes: int = 1000
    out_channels: int | None = None
    spare: int = 0
    mlp: Literal["gelu tanh", "swiglu"] = "gelu tanh"
    norm: Literal["layer", "rms"] = "layer"
    qk_norm: Literal["layer", "rms"] | None = None
    positions: Literal["sincos", "rotary"] = "sincos"
    shift: int = 0
    mlp_eps: float = 1e-6

    def __post_init__(self) -> None:
        patch_grid(self.image, (self.patch, self.patch))

    @property
    def outputs(self) -> int:
        """Channels of the result."""
        return self.channels if self.out_channels is None else self.out_channels

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along (height, width)."""
        return patch_grid(self.image, (self.patch, self.patch))


class DiT(nn.Module):
    """A denoiser of pictures or latents.

    Args:
        config: its shape.
        recompute: activation checkpointing: less memory in training for a third more time.
    """

    def __init__(self, config: DiTConfig = DiTConfig(), *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        self.patch = PatchEmbed(config.channels, config.dim, (config.patch, config.patch))
        self.positions = _positions(config)
        self.timestep = TimestepEmbedding(config.dim, shift=config.shift)
        self.label = LabelEmbedding(config.classes, config.dim) if config.classes else None
        self.blocks = Stack([_block(config) for _ in range(config.depth)], run=recomputed if recompute else direct)
        values = config.patch**2 * (config.outputs + config.spare)
        self.head = Head(AdaptiveNorm(config.dim, norm=_norm(config, 1e-6)), nn.Linear(config.dim, values))
        start(self)

    def forward(self, x: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """Return what the process predicts, (B, outputs, H, W), for noisy x (B, C, H, W).

        Args:
            x: whose sides are multiples of the patch.
            t: (B,) float, times as the process tells them.
            condition: :class:`Labels` if the model knows classes, else None.

        Raises:
            ValueError: if a patch does not divide x.
            TypeError: if the condition is not of the kind that the model takes.
        """
        return self.features(x, t, condition)[0]

    def features(self, x: Tensor, t: Tensor, condition: Condition = None, want: Any = None) -> tuple[Tensor, dict]:
        """Return the result as :meth:`forward` does, and what was wanted, e.g. ``{7: {"hidden": True}}``."""
        cond = self.conditioning(t, condition)
        grid = self.patch.grid(x)
        tokens, notes = self.blocks(self.embed(x), Ctx(Tokens(coords=self.places(grid, x)), cond=cond, want=want))
        return self.picture(self.head(tokens, cond), grid), notes

    def conditioning(self, t: Tensor, condition: Condition = None) -> Tensor:
        """Return the vectors (B, dim) that modulate all blocks.

        Raises:
            TypeError: as :meth:`forward`.
        """
        cond = self.timestep(t)
        if self.label is None:
            if condition is not None:
                raise TypeError(f"this model takes no condition, but got {type(condition).__name__}")
            return cond
        if not isinstance(condition, Labels):
            raise TypeError(f"this model needs Labels, but got {type(condition).__name__}")
        return cond + self.label(condition)

    def embed(self, x: Tensor) -> Tensor:
        """Return the tokens (B, N, dim) that enter the blocks."""
        tokens = self.patch(x)
        if self.positions is None:
            return tokens
        return tokens + resampled(self.positions.table, self.config.grid, self.patch.grid(x))

    def places(self, grid: tuple[int, ...], x: Tensor) -> Tensor | None:
        """Return (row, column, height, width) of every patch, (1, N, 4), if positions are rotary."""
        if self.config.positions != "rotary":
            return None
        cells = grid_coords(grid, x.device)
        return torch.cat([cells, torch.tensor(grid, device=x.device).expand_as(cells)], -1)

    def picture(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Return patches (B, N, patch * patch * channels) as a picture (B, outputs, H, W)."""
        side = self.config.patch
        return unpatchify(patches, (side, side), grid, "channels last")[:, : self.config.outputs]

    def unconditional(self, condition: Condition) -> Condition:
        """Return a condition of the same rows that says nothing."""
        if isinstance(condition, Labels):
            return Labels(torch.full_like(condition.index, self.config.classes))
        return None


class Head(nn.Module):
    """The last layer.

    Args:
        norm: modulated by the conditioning.
        proj: to the values of a patch.
    """

    def __init__(self, norm: AdaptiveNorm, proj: nn.Linear) -> None:
        super().__init__()
        self.norm = norm
        self.proj = proj

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Map x (B, N, dim) and cond (B, dim) to (B, N, values)."""
        return self.proj(self.norm(x, cond))


def _block(config: DiTConfig) -> Block:
    dim = config.dim
    kinds = {"layer": LayerNorm, "rms": RMSNorm, None: None}
    kind = kinds[config.qk_norm]
    attend = attention(
        dim,
        config.heads,
        norm=None if kind is None else lambda width: kind(width, eps=1e-6),
        turn=GridRope(dim // config.heads) if config.positions == "rotary" else None,
    )
    return Block(
        attn=Modulated(Modulation(dim, norm=_norm(config, 1e-6)), attend),
        mlp=Modulated(Modulation(dim, norm=_norm(config, config.mlp_eps)), _mlp(config)),
    )


def _norm(config: DiTConfig, eps: float) -> nn.Module:
    kind = LayerNorm if config.norm == "layer" else RMSNorm
    return kind(config.dim, eps=eps, elementwise_affine=False)


def _mlp(config: DiTConfig) -> nn.Module:
    if config.mlp == "swiglu":
        return SwiGLU(config.dim, 4 * config.dim if config.hidden is None else config.hidden, bias=True)
    return Mlp(config.dim, config.hidden, act=nn.GELU("tanh"))


def _positions(config: DiTConfig) -> FixedPositions | None:
    if config.positions == "rotary":
        return None
    table = sinusoids_2d(config.grid[0], config.grid[1], config.dim)
    return FixedPositions(table.to(torch.get_default_device()))


def start(model: nn.Module) -> None:
    """Start a model as the paper does: every block is the identity, and the result is zero."""
    xavier_uniform(model)
    for module in model.modules():
        if isinstance(module, TimestepEmbedding):
            nn.init.normal_(module.fc1.weight, std=0.02)
            nn.init.normal_(module.fc2.weight, std=0.02)
        elif isinstance(module, LabelEmbedding):
            nn.init.normal_(module.table.weight, std=0.02)
    still = [module.proj for module in model.modules() if isinstance(module, Modulation | AdaptiveNorm | Head)]
    for layer in still:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
