"""Multimodal Diffusion Transformer (Esser et al. 2024, arXiv:2403.03206), as in Stable Diffusion 3 and 3.5.

Tokens of the picture and of the text are two streams with weights of their own that meet in attention. Text encoders
are outside: the model is told what they made (:class:`diffusion.condition.Text`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.nn import (
    AdaptiveNorm,
    Attention,
    Block,
    Ctx,
    Each,
    FixedPositions,
    Joint,
    Mlp,
    Modulated,
    Modulation,
    OneSided,
    PatchEmbed,
    RMSNorm,
    Stack,
    Streams,
    Tokens,
    attention,
    direct,
    patch_grid,
    recomputed,
    sinusoids_2d,
    unpatchify,
)

from .condition import Condition, PooledEmbedding, Text, TimestepEmbedding
from .dit import Head, start
from .streams import DualStreams, LastStreams

__all__ = ["MMDiT", "MMDiTConfig"]


@dataclass(frozen=True)
class MMDiTConfig:
    """The shape of an MMDiT.

    Attributes:
        image: (height, width) of the latents that the scale of positions belongs to; others are possible.
        channels: of the latents.
        patch: side of a square patch.
        depth, heads: number of blocks, and of heads.
        head_dim: width of a head; the width of the model is ``heads * head_dim``.
        text_dim: width of the text's tokens.
        pooled_dim: width of what stands for the whole text.
        out_channels: of the result, default ``channels``.
        most: side, in patches, of the table of positions, of which a picture takes the middle.
        dual: numbers of the blocks with a second attention, among the picture's tokens alone (3.5 medium).
        qk_norm: whether RMSNorm is applied to queries and keys in each head (3.5).
    """

    image: tuple[int, int] = (128, 128)
    channels: int = 16
    patch: int = 2
    depth: int = 24
    heads: int = 24
    head_dim: int = 64
    text_dim: int = 4096
    pooled_dim: int = 2048
    out_channels: int | None = None
    most: int = 192
    dual: tuple[int, ...] = ()
    qk_norm: bool = False

    def __post_init__(self) -> None:
        rows, columns = patch_grid(self.image, (self.patch, self.patch))
        if max(rows, columns) > self.most:
            raise ValueError(f"{rows} x {columns} patches, but positions for {self.most} x {self.most} only")
        if any(not 0 <= number < self.depth - 1 for number in self.dual):
            raise ValueError(f"dual {self.dual} must be numbers of blocks before the last of {self.depth}")

    @property
    def dim(self) -> int:
        """Width of both streams."""
        return self.heads * self.head_dim

    @property
    def outputs(self) -> int:
        """Channels of the result."""
        return self.channels if self.out_channels is None else self.out_channels


class MMDiT(nn.Module):
    """A denoiser of latents that is told a text.

    Args:
        config: its shape.
        recompute: activation checkpointing: less memory in training for a third more time.
    """

    def __init__(self, config: MMDiTConfig = MMDiTConfig(), *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch = PatchEmbed(config.channels, dim, (config.patch, config.patch))
        self.positions = _positions(config)
        self.timestep = TimestepEmbedding(dim)
        self.pooled = PooledEmbedding(config.pooled_dim, dim)
        self.text = nn.Linear(config.text_dim, dim)
        self.blocks = Stack([_block(config, i) for i in range(config.depth)], run=recomputed if recompute else direct)
        self.head = Head(AdaptiveNorm(dim), nn.Linear(dim, config.patch**2 * config.outputs))
        start(self)

    def forward(self, x: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """Return the velocity (B, outputs, H, W) of noisy latents x (B, C, H, W).

        Args:
            x: whose sides are multiples of the patch.
            t: (B,) float; Stable Diffusion 3 is told 1000 times the share of noise.
            condition: :class:`Text`.

        Raises:
            ValueError: if a patch does not divide x, or it is larger than the table of positions.
            TypeError: if the condition is no text.
        """
        if not isinstance(condition, Text):
            raise TypeError(f"this model needs Text, but got {type(condition).__name__}")
        grid = self.patch.grid(x)
        cond = self.timestep(t) + self.pooled(condition.pooled)
        streams = self.patch(x) + self.places(grid), self.text(condition.states)
        tokens: tuple[Tokens, ...] | Tokens = Tokens()
        if condition.lengths is not None:
            order = torch.arange(condition.states.shape[1], device=x.device)
            index = torch.where(order < condition.lengths[:, None], order, -1)
            tokens = Tokens(), Tokens(index)
        (picture, _), _ = self.blocks(streams, Ctx(tokens, cond=cond))
        side = self.config.patch
        return unpatchify(self.head(picture, cond), (side, side), grid, "channels last")

    def places(self, grid: Sequence[int]) -> Tensor:
        """Return the positions (N, dim) of a grid of patches: the middle of the table.

        Raises:
            ValueError: if the grid is larger than the table.
        """
        most = self.config.most
        if max(grid) > most:
            raise ValueError(f"{grid[0]} x {grid[1]} patches, but positions for {most} x {most} only")
        top, left = ((most - side) // 2 for side in grid)
        table = self.positions.table.unflatten(0, (most, most))
        return table[top : top + grid[0], left : left + grid[1]].flatten(0, 1)

    def unconditional(self, condition: Condition) -> Condition:
        """Return a text of the same rows that says nothing: zeros, as in the training of Stable Diffusion 3."""
        if not isinstance(condition, Text):
            return None
        return Text(torch.zeros_like(condition.states), torch.zeros_like(condition.pooled), condition.lengths)


def _block(config: MMDiTConfig, number: int) -> Block:
    dim = config.dim
    parts = [_attention(config), _attention(config)]
    if number == config.depth - 1:
        parts[1].out = nn.Identity()  # nobody reads the text after the last block
        last = LastStreams(Modulation(dim), AdaptiveNorm(dim), OneSided(parts))
        return Block(joint=last, mlp=Each([_mlp(dim), None]))
    streams = [Modulation(dim), Modulation(dim)], Joint(parts)
    dual = number in config.dual
    joint = DualStreams(*streams, Modulation(dim), _attention(config)) if dual else Streams(*streams)
    return Block(joint=joint, mlp=Each([_mlp(dim), _mlp(dim)]))


def _attention(config: MMDiTConfig) -> Attention:
    norm = (lambda width: RMSNorm(width, eps=1e-6)) if config.qk_norm else None
    return attention(config.dim, config.heads, norm=norm)


def _mlp(dim: int) -> Modulated:
    return Modulated(Modulation(dim), Mlp(dim, act=nn.GELU("tanh")))


def _positions(config: MMDiTConfig) -> FixedPositions:
    side = config.image[0] // config.patch
    table = sinusoids_2d(config.most, config.most, config.dim, step=side / config.most)
    return FixedPositions(table.to(torch.get_default_device()))
