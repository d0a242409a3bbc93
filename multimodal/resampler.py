"""Flamingo's resampler (arXiv:2204.14198, section 3.1): any number of image or video tokens becomes a few latents.

Learned latents look at the tokens and at themselves in one attention, several blocks deep.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from core.nn import Block, CrossAttention, Ctx, Heads, LayerNorm, Memory, Mlp, Residual, Stack, Tokens
from core.weights import Rules, Split

__all__ = ["IDEFICS", "OPEN_FLAMINGO", "Resampler", "WithMyself"]


class WithMyself(nn.Module):
    """Cross-attention over the memory and, behind it, the queries themselves.

    Args:
        pre: norm of the memory; the queries come normed.
        fn: attention over ``ctx.memory``.
    """

    def __init__(self, pre: nn.Module, fn: CrossAttention) -> None:
        super().__init__()
        self.pre = pre
        self.fn = fn

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map queries (B, L, D), whose memory is (B, S, D), to (B, L, D). Of the memory's tokens padding counts."""
        memory, tokens = ctx.memory
        if tokens.index is not None:
            rows = tokens.index.shape[0]
            own = torch.arange(x.shape[1], device=x.device).expand(rows, -1)
            tokens = Tokens(index=torch.cat([tokens.index, own], 1))
        both = torch.cat([self.pre(memory), x], 1)  # (B, S + L, D)
        y: Tensor = self.fn(x, ctx._replace(memory=Memory(both, tokens)))
        return y


class Resampler(nn.Module):
    """Learned latents that read a memory.

    Args:
        dim: width of the latents, of the memory that is read and of the result.
        depth: number of blocks.
        heads: of the attention.
        latents: their number, which is the number of tokens that come out.
        head_dim: width of a head, default dim // heads.
        hidden: width of the feed-forward branch, default 4 * dim.
        memory_dim: width of what comes in; where it is not ``dim``, a linear layer makes it so.
        frames: the most frames of a video, each of which has a learned embedding; 0 for none.
        act: makes the activation of the feed-forward branch: OpenFlamingo has GELU, Idefics ReLU.
        norm: makes the norm of queries and keys from the width of a head, where there is one.

    Raises:
        ValueError: if the heads don't divide the width.
    """

    def __init__(
        self,
        dim: int,
        depth: int = 6,
        heads: int = 8,
        latents: int = 64,
        *,
        head_dim: int | None = None,
        hidden: int | None = None,
        memory_dim: int | None = None,
        frames: int = 0,
        act: Callable[[], nn.Module] = nn.GELU,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if head_dim is None and dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}: change one of them or give head_dim")
        width = dim // heads if head_dim is None else head_dim
        self.project = nn.Identity() if memory_dim in (None, dim) else nn.Linear(memory_dim or dim, dim)
        self.latents = nn.Parameter(torch.randn(latents, dim))
        self.frames = nn.Parameter(torch.randn(frames, dim)) if frames else None

        def part(normed: bool) -> Heads:
            return Heads(dim, heads, width, bias=False, norm=norm(width) if norm is not None and normed else None)

        def block() -> Block:
            attend = CrossAttention(part(True), part(True), part(False), nn.Linear(heads * width, dim, bias=False))
            return Block(
                cross=Residual(LayerNorm(dim), WithMyself(LayerNorm(dim), attend)),
                mlp=Residual(LayerNorm(dim), Mlp(dim, hidden, act=act(), bias=False)),
            )

        self.blocks = Stack(block() for _ in range(depth))
        self.norm = LayerNorm(dim)

    def forward(self, memory: Tensor, tokens: Tokens = Tokens()) -> Tensor:
        """Return (B, latents, dim) of tokens (B, S, memory_dim), or of the tokens of frames (B, frames, S, memory_dim).

        Args:
            memory: what is read.
            tokens: of the memory, (B or 1, S) or (B or 1, frames * S); those with index -1 are not looked at.

        Raises:
            ValueError: if there are more frames than embeddings.
        """
        x = self.project(memory)
        if x.ndim == 4:
            if self.frames is not None:
                if x.shape[1] > len(self.frames):
                    raise ValueError(f"{x.shape[1]} frames, but embeddings for {len(self.frames)} only")
                x = x + self.frames[: x.shape[1], None]
            x = x.flatten(1, 2)  # (B, frames, S, D) -> (B, frames * S, D)
        latents = self.latents.to(x.dtype).expand(len(x), -1, -1)
        return self.norm(self.blocks(latents, Ctx(memory=Memory(x, tokens))).x)


_BLOCK = "blocks.{i}."

IDEFICS: Rules = {
    "latents": "latents",
    **{
        f"blocks.{{i}}.{theirs}.{{leaf}}": f"{_BLOCK}{ours}.{{leaf}}"
        for theirs, ours in {
            "0.latents_layer_norm": "cross.norm",
            "0.context_layer_norm": "cross.fn.pre",
            "0.q_proj": "cross.fn.fn.q.proj",
            "0.k_proj": "cross.fn.fn.k.proj",
            "0.v_proj": "cross.fn.fn.v.proj",
            "0.q_layer_norm": "cross.fn.fn.q.norm",
            "0.k_layer_norm": "cross.fn.fn.k.norm",
            "0.output_proj": "cross.fn.fn.out",
            "1.ln": "mlp.norm",
            "1.fc": "mlp.fn.fc1",
            "1.c_proj": "mlp.fn.fc2",
        }.items()
    },
    "layer_norm.{leaf}": "norm.{leaf}",
}
"""Names of Idefics' ``perceiver_resampler`` (``act=nn.ReLU``), for :func:`core.weights.nested`."""

OPEN_FLAMINGO: Rules = {
    "latents": "latents",
    "layers.{i}.0.norm_latents.{leaf}": _BLOCK + "cross.norm.{leaf}",
    "layers.{i}.0.norm_media.{leaf}": _BLOCK + "cross.fn.pre.{leaf}",
    "layers.{i}.0.to_q.weight": _BLOCK + "cross.fn.fn.q.proj.weight",
    "layers.{i}.0.to_kv.weight": Split(_BLOCK + "cross.fn.fn.k.proj.weight", _BLOCK + "cross.fn.fn.v.proj.weight"),
    "layers.{i}.0.to_out.weight": _BLOCK + "cross.fn.fn.out.weight",
    "layers.{i}.1.0.{leaf}": _BLOCK + "mlp.norm.{leaf}",
    "layers.{i}.1.1.weight": _BLOCK + "mlp.fn.fc1.weight",
    "layers.{i}.1.3.weight": _BLOCK + "mlp.fn.fc2.weight",
    "norm.{leaf}": "norm.{leaf}",
}
"""Names of OpenFlamingo's ``perceiver``, for :func:`core.weights.nested`."""
