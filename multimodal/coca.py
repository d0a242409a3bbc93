"""CoCa (Yu et al. 2022, arXiv:2205.01917): a contrastive pair of towers whose text tower goes on to write captions.

The text tower has two halves: the first reads the text alone, and its class token is the text's embedding; the second
also looks at the image and predicts the next word. As in open_clip (``coca_model.py``, ``transformer.py``), one layer
of 256 queries pools the image: the first query makes the embedding, the others are what the second half looks at.
"""

from dataclasses import dataclass, field, replace
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn import (
    Block,
    Cache,
    Causal,
    Ctx,
    LayerNorm,
    LearnedPositions,
    Mask,
    Memory,
    Mlp,
    Replace,
    Residual,
    Stack,
    attention,
    cross_attention,
    direct,
    recomputed,
    trunc_normal,
)
from core.nn.mask import View
from vision.vit import ViT, ViTConfig

__all__ = ["Captioned", "CoCa", "CoCaConfig", "ImageQueries", "TextDecoder", "TextEncoder"]

TOWER = ViTConfig(patch=32, patch_bias=False, classes=0, pre_norm=True, eps=1e-5)


@dataclass(frozen=True)
class CoCaConfig:
    """The shape of a CoCa model; as it stands, open_clip's coca_ViT-B-32.

    Attributes:
        image: of the image tower, which has a class token and no head.
        embed: width of the common space, and of what the decoder sees of the image.
        queries: that pool the image; the first is for the common space.
        pool_heads: of their attention.
        vocab, context: size of the vocabulary, and tokens of a text.
        dim: width of both halves of the text tower.
        depth, heads: of the first half.
        decoder_depth, decoder_heads: of the second half.
        pad: the token that fills a row; its place in the text is not looked at.
        logit_scale: at the start; its logarithm is what is learned.
    """

    image: ViTConfig = field(default_factory=lambda: TOWER)
    embed: int = 512
    queries: int = 256
    pool_heads: int = 8
    vocab: int = 49_408
    context: int = 76
    dim: int = 512
    depth: int = 12
    heads: int = 8
    decoder_depth: int = 12
    decoder_heads: int = 8
    pad: int = 0
    logit_scale: float = 1 / 0.07

    def __post_init__(self) -> None:
        if self.image.classes or self.queries < 2:
            raise ValueError("CoCa needs an image tower without classes, and two queries or more")


class Captioned(NamedTuple):
    """What one pass over pairs gives.

    Attributes:
        image, text: (B, embed), of unit length.
        scale: 0-d, of their products.
        states: (B, L - 1, dim): ``decoder.head`` makes of them the logits of the text's tokens 1 to L - 1.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    states: Tensor


@dataclass(frozen=True, eq=False)
class Shown(Mask):
    """The keys that each row shows: (B, S) bool."""

    keys: Tensor
    ordinal = False

    def keep(self, q: View, k: View) -> Tensor:
        """Look the key up."""
        return self.keys[k.row, k.slot]


class ImageQueries(nn.Module):
    """Learned queries that attend to the tokens of an image (Set Transformer's pooling), then a norm."""

    def __init__(self, queries: int, dim: int, memory_dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, dim))
        attend = cross_attention(dim, heads, memory_dim=memory_dim, pre=LayerNorm(memory_dim))
        self.block = Block(cross=Replace(LayerNorm(dim), attend))
        self.norm = LayerNorm(dim)

    def forward(self, x: Tensor, count: int | None = None) -> Tensor:
        """Pool tokens (B, L, memory_dim) to (B, queries, dim), or to the first ``count`` of them."""
        query = self.query[:count].expand(x.shape[0], -1, -1)
        return self.norm(self.block(query, Ctx(memory=Memory(x))).x)


class TextEncoder(nn.Module):
    """The first half: causal, with a class token at the end that collects the text.

    As in open_clip, and so in all public weights, the padding that is hidden lies one column too far to the right: a
    token is hidden if the one *before* it is padding.
    """

    def __init__(self, config: CoCaConfig) -> None:
        super().__init__()
        self.pad = config.pad
        dim = config.dim
        self.tokens = nn.Embedding(config.vocab, dim)
        self.cls_token = nn.Parameter(torch.empty(dim))
        self.positions = LearnedPositions(config.context + 1, dim, std=0.01)
        self.blocks = Stack(
            Block(
                attn=Residual(LayerNorm(dim), attention(dim, config.heads, mask=Causal())),
                mlp=Residual(LayerNorm(dim), Mlp(dim)),
            )
            for _ in range(config.depth)
        )
        self.norm = LayerNorm(dim)
        self.proj = nn.Linear(dim, config.embed, bias=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedding (B, embed) and the states (B, L, dim) of ids (B, L)."""
        return self._read(ids, ids.shape[1])

    def embedding(self, ids: Tensor) -> Tensor:
        """Return the embedding (B, embed) alone, without work on columns of padding that nothing looks at."""
        filled = (ids != self.pad).any(0).nonzero()
        return self._read(ids, min(int(filled.max()) + 2, ids.shape[1]) if len(filled) else 1)[0]

    def following(self, ids: Tensor, before: Tensor, cache: Cache) -> Tensor:
        """Return the states (B, n, dim) of ids (B, n) that follow ``before`` (B, m), which the cache has seen."""
        x = self.positions(self.tokens(ids), start=before.shape[1])
        shown = self._shown(torch.cat([before, ids], 1))[:, :-1]
        return self.blocks(x, Ctx(mask=Shown(shown), cache=cache)).x

    def _read(self, ids: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        length = ids.shape[1]
        x = self.tokens(ids[:, :columns])
        x = torch.cat([x, self.cls_token.to(x.dtype).expand(len(x), 1, -1)], 1)
        # the class token stands after the padding, however much of that is left out
        places = torch.cat([torch.arange(columns, device=ids.device), torch.tensor([length], device=ids.device)])
        shown = self._shown(ids)[:, places]
        x = self.blocks(self.positions(x, places[None]), Ctx(mask=Shown(shown))).x
        return self.proj(self.norm(x[:, -1])), x[:, :-1]

    def _shown(self, ids: Tensor) -> Tensor:
        """Which keys are shown: (B, L + 1), the last one for the class token."""
        return F.pad(ids != self.pad, (1, 0), value=True)


class TextDecoder(nn.Module):
    """The second half: causal over the states of the first, and looking at the image."""

    def __init__(self, config: CoCaConfig) -> None:
        super().__init__()
        dim, heads = config.dim, config.decoder_heads
        self.blocks = Stack(
            Block(
                attn=Residual(LayerNorm(dim), attention(dim, heads, mask=Causal())),
                mlp=Residual(LayerNorm(dim), Mlp(dim)),
                cross=Residual(
                    LayerNorm(dim),
                    cross_attention(dim, heads, memory_dim=config.embed, pre=LayerNorm(config.embed)),
                ),
                mlp2=Residual(LayerNorm(dim), Mlp(dim)),
            )
            for _ in range(config.decoder_depth)
        )
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, config.vocab, bias=False)

    def forward(self, states: Tensor, image: Tensor | None, cache: Cache | None = None) -> Tensor:
        """Return what the head makes logits of, (B, L, dim).

        Args:
            states: of the first half, (B, L, dim); with a cache, of the new tokens only.
            image: (B, queries - 1, embed); a filled cache has it already.
            cache: of ``blocks.cache()``.
        """
        memory = None if image is None else Memory(image)
        return self.norm(self.blocks(states, Ctx(memory=memory, cache=cache)).x)


class CoCa(nn.Module):
    """Two towers and a captioner.

    Args:
        config: its shape.
        recompute: activation checkpointing: less memory in training for a third more time.
    """

    sigmoid = False
    logit_bias = None

    def __init__(self, config: CoCaConfig = CoCaConfig(), *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        self.image = ViT(replace(config.image, pool="cls"), recompute=recompute)
        self.image.norm = nn.Identity()  # the queries bring a norm of their own
        self.pool = ImageQueries(config.queries, config.embed, config.image.dim, config.pool_heads)
        self.image_proj = nn.Linear(config.embed, config.embed, bias=False)
        self.text = TextEncoder(config)
        self.decoder = TextDecoder(config)
        self.logit_scale = nn.Parameter(torch.tensor(log(config.logit_scale)))
        for stack in (self.text.blocks, self.decoder.blocks):
            stack.run = recomputed if recompute else direct
        trunc_normal(self)
        nn.init.normal_(self.text.tokens.weight, std=0.02)
        nn.init.normal_(self.text.cls_token, std=0.01)
        for layer in (self.text.proj, self.image_proj, self.decoder.head):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def forward(self, images: Tensor, ids: Tensor) -> Captioned:
        """Compare images (B, C, H, W) with texts (B, L) int64, and predict each text from its image."""
        x = self.pool(self.image.features(images).x)
        text, states = self.text(ids)
        return Captioned(
            F.normalize(self.image_proj(x[:, 0]), dim=-1),
            F.normalize(text, dim=-1),
            self.logit_scale.exp(),
            self.decoder(states[:, :-1], x[:, 1:]),
        )

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        """Return the embeddings (B, embed) of images (B, C, H, W), of unit length or as they come."""
        x = self.image_proj(self.pool(self.image.features(images).x, count=1)[:, 0])
        return F.normalize(x, dim=-1) if normalize else x

    def encode_text(self, ids: Tensor, normalize: bool = True) -> Tensor:
        """Return the embeddings (B, embed) of texts (B, L) int64, of unit length or as they come."""
        x = self.text.embedding(ids)
        return F.normalize(x, dim=-1) if normalize else x

    def logits(self, image: Tensor, text: Tensor) -> Tensor:
        """Return how well embeddings (B_image, embed) and (B_text, embed) fit: (B_image, B_text)."""
        return self.logit_scale.exp() * image @ text.T

    def captioning_tokens(self, images: Tensor) -> Tensor:
        """Return what the decoder sees of images (B, C, H, W): (B, queries - 1, embed)."""
        return self.pool(self.image.features(images).x)[:, 1:]

    def caption_logits(self, images: Tensor, ids: Tensor) -> Tensor:
        """Return the logits (B, L - 1, vocab) of the tokens 1 to L - 1 of texts (B, L), given their images."""
        _, states = self.text(ids)
        logits: Tensor = self.decoder.head(self.decoder(states[:, :-1], self.captioning_tokens(images)))
        return logits
