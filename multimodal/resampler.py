"""The resampler of Flamingo (Alayrac et al. 2022, arXiv:2204.14198): any number of features become a fixed number.

Learned latents attend, block by block, to the features *and* to themselves in one attention; the features stay as they
are.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from core.nn import (
    Block,
    CrossAttention,
    Ctx,
    LayerNorm,
    Memory,
    Mlp,
    Residual,
    Stack,
    Tokens,
    cross_attention,
)

__all__ = ["Resampler", "WithThemselves"]


class WithThemselves(CrossAttention):
    """Attention over the memory and, behind it, over the queries' own activations (Flamingo's figure 5)."""

    def _keys(self, x: Tensor, tokens: Tokens, start: int | Tensor, ctx: Ctx) -> tuple[Tensor, Tensor, Tokens]:
        memory, given = ctx.memory
        if self.pre is not None:
            memory = self.pre(memory)
        every = torch.cat([memory, x], 1)
        if given.index is not None:  # the latents hide from nobody
            given = Tokens(index=torch.cat([given.index, given.index.new_zeros(len(given.index), x.shape[1])], 1))
        return self.k(every), self.v(every), given


class Resampler(nn.Module):
    """Latents that gather what features hold.

    As it stands, OpenFlamingo's (``helpers.py``). Idefics-1 has ReLU and norms of queries and keys.

    Args:
        dim: width of the latents and of the features.
        depth: number of blocks.
        heads, head_dim: of the attention; together they may be wider or narrower than ``dim``.
        latents: how many there are, whatever the number of features.
        memory_dim: width of the features where it is another.
        hidden: width of the feed-forward branch, default 4 * dim.
        act: makes its activation.
        norm: makes the norm of queries and keys from the width of a head; none by default.
        frames: of a film, that have a learned embedding of their place in time.
    """

    def __init__(
        self,
        dim: int,
        depth: int = 6,
        heads: int = 8,
        latents: int = 64,
        memory_dim: int | None = None,
        *,
        head_dim: int = 64,
        hidden: int | None = None,
        act: Callable[[], nn.Module] = nn.GELU,
        norm: Callable[[int], nn.Module] | None = None,
        frames: int | None = None,
    ) -> None:
        super().__init__()
        width = dim if memory_dim is None else memory_dim
        self.latents = nn.Parameter(torch.randn(latents, dim))
        self.frames = None if frames is None else nn.Parameter(torch.randn(frames, width))
        # keys of latents and of features have one projection
        self.widen = nn.Identity() if width == dim else nn.Linear(width, dim)
        self.blocks = Stack(
            Block(
                cross=Residual(LayerNorm(dim), _attention(dim, heads, head_dim, norm)),
                mlp=Residual(LayerNorm(dim), Mlp(dim, hidden, act=act(), bias=False)),
            )
            for _ in range(depth)
        )
        self.norm = LayerNorm(dim)

    def forward(self, x: Tensor, tokens: Tokens = Tokens()) -> Tensor:
        """Return the latents (B, latents, dim) of features (B, N, memory_dim), or (B, F, N, memory_dim) of F frames.

        Args:
            x: features.
            tokens: index -1 where a feature is padding, (B, N) or (B, F * N).

        Raises:
            ValueError: if there are more frames than embeddings of them.
        """
        if x.ndim == 4:
            x = self._in_time(x).flatten(1, 2)  # (B, F, N, D) -> (B, F*N, D)
        latents = self.latents.expand(len(x), -1, -1)
        return self.norm(self.blocks(latents, Ctx(memory=Memory(self.widen(x), tokens))).x)

    def _in_time(self, x: Tensor) -> Tensor:
        if self.frames is None:
            return x
        if x.shape[1] > len(self.frames):
            raise ValueError(f"{x.shape[1]} frames, but this resampler has places for {len(self.frames)} only")
        return x + self.frames[: x.shape[1], None]


def _attention(dim: int, heads: int, head_dim: int, norm: Callable[[int], nn.Module] | None) -> WithThemselves:
    plain = cross_attention(dim, heads, head_dim=head_dim, bias="", norm=norm)
    return WithThemselves(plain.q, plain.k, plain.v, plain.out, pre=LayerNorm(dim))
