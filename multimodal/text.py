"""The text towers of CLIP (arXiv:2103.00020), SigLIP (arXiv:2303.15343) and SigLIP 2 (arXiv:2502.14786).

CLIP reads causally and takes what stands at the stop token; SigLIP looks at all tokens, padding included, and takes
what stands at the last one. What :meth:`TextTower.forward` returns is projected into the space that images share.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn import (
    Block,
    Causal,
    Ctx,
    Full,
    LayerNorm,
    LearnedPositions,
    Mlp,
    Out,
    QuickGELU,
    Residual,
    Stack,
    attention,
    direct,
    recomputed,
    trunc_normal,
)

__all__ = ["TextConfig", "TextTower", "stretched"]

_ACTS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"),
    "quick gelu": QuickGELU,
}


@dataclass(frozen=True)
class TextConfig:
    """The shape of a text tower; as it stands, that of CLIP's ViT-B.

    Attributes:
        vocab: number of tokens.
        context: the most tokens of a text.
        dim, depth, heads: width, number of blocks, number of heads.
        hidden: width of the feed-forward branch, default 4 * dim.
        mlp: its activation: exact GELU, its tanh approximation, or CLIP's ``x * sigmoid(1.702 x)``.
        causal: whether a token sees only what comes before it. If not, padding is seen too, as in SigLIP.
        pool: the token that stands for the text: the first one with the highest id (``"argmax"``, OpenAI's, whose stop
            token is the last of the vocabulary), the first ``"eot"``, or the ``"last"`` column.
        eot: id of the stop token, for ``pool="eot"``.
        pad: id that fills a row.
        embed: width of the space that texts and images share; None for no projection.
        embed_bias: whether the projection has a bias.
        eps: of the norms.
    """

    vocab: int = 49_408
    context: int = 77
    dim: int = 512
    depth: int = 12
    heads: int = 8
    hidden: int | None = None
    mlp: Literal["gelu", "gelu tanh", "quick gelu"] = "gelu"
    causal: bool = True
    pool: Literal["argmax", "eot", "last"] = "argmax"
    eot: int | None = None
    pad: int = 0
    embed: int | None = 512
    embed_bias: bool = False
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.pool == "eot" and self.eot is None:
            raise ValueError("pool 'eot' needs eot: the id of the stop token")


class TextTower(nn.Module):
    """A text encoder.

    Args:
        config: its shape.
        recompute: activation checkpointing: less memory in training for a third more time.
    """

    def __init__(self, config: TextConfig = TextConfig(), *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.tokens = nn.Embedding(config.vocab, dim)
        self.positions = LearnedPositions(config.context, dim, std=0.01)
        self.blocks = Stack([_block(config) for _ in range(config.depth)], run=recomputed if recompute else direct)
        self.norm = LayerNorm(dim, eps=config.eps)
        self.proj = nn.Identity() if config.embed is None else nn.Linear(dim, config.embed, bias=config.embed_bias)
        trunc_normal(self)
        nn.init.normal_(self.tokens.weight, std=0.02)
        if isinstance(self.proj, nn.Linear):
            nn.init.normal_(self.proj.weight, std=dim**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings (B, embed) of texts (B, L) int64, not normalised.

        A causal tower never looks behind the stop token, so columns behind the last one of the batch are left out:
        the result is the same.
        """
        places = self.ends(ids)
        if self.config.causal and not torch.compiler.is_compiling():
            ids = ids[:, : int(places.max()) + 1]
        x = self.features(ids).x
        return self.proj(x[torch.arange(len(x), device=x.device), places])

    def features(self, ids: Tensor, want: Any = None) -> Out:
        """Return the normalised tokens (B, L, dim) of texts (B, L) int64, and what was wanted.

        Raises:
            ValueError: if the texts are longer than the context.
        """
        if ids.shape[1] > self.config.context:
            raise ValueError(
                f"texts of {ids.shape[1]} tokens, but the context is {self.config.context}: shorten them, or see "
                "multimodal.context.resized_context"
            )
        x, notes = self.blocks(self.positions(self.tokens(ids)), Ctx(want=want))
        return Out(self.norm(x), notes)

    def ends(self, ids: Tensor) -> Tensor:
        """Return the column (B,) of the token that stands for each text (B, L)."""
        if self.config.pool == "last":
            return ids.new_full((len(ids),), ids.shape[1] - 1)
        if self.config.pool == "argmax":
            return ids.argmax(1)
        assert self.config.eot is not None
        return ids.eq(self.config.eot).int().argmax(1)


def stretched(table: Tensor, context: int, kept: int = 20) -> Tensor:
    """Return positions (L, D) for texts of up to ``context`` tokens, from those (L0, D) that were trained.

    The first ``kept`` rows, which short captions have trained well, stay; those behind them are interpolated linearly
    (Long-CLIP, arXiv:2403.15378). Texts of up to ``kept`` tokens keep their embeddings exactly; the others are
    approximate until the tower is fine-tuned. A smaller context is cut off, which is exact.

    Args:
        table: the trained positions.
        context: rows that are wanted.
        kept: rows that stay.
    """
    if context <= len(table):
        return table[:context]
    kept = min(kept, len(table) - 1)
    rest = F.interpolate(table[kept:].T[None], size=context - kept, mode="linear", align_corners=True)  # (1, D, L)
    return torch.cat([table[:kept], rest[0].T])


def _block(config: TextConfig) -> Block:
    dim = config.dim
    attend = attention(dim, config.heads, mask=Causal() if config.causal else Full())
    return Block(
        attn=Residual(LayerNorm(dim, eps=config.eps), attend),
        mlp=Residual(LayerNorm(dim, eps=config.eps), Mlp(dim, config.hidden, act=_ACTS[config.mlp]())),
    )
