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
from multimodal.text import TextConfig, TextTower
from multimodal.two_towers import Towers
from vision.vit import ViT, ViTConfig

__all__ = ["Captioned", "CoCa", "CoCaConfig", "ImageEncoder", "TextDecoder", "TextEncoder"]

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
        bias: none, ever; it is here so that the first four are a :class:`multimodal.two_towers.Pair`.
        states: (B, L - 1, dim): ``decoder.head`` makes of them the logits of the text's tokens 1 to L - 1.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: None
    states: Tensor


@dataclass(frozen=True, eq=False)
class Shown(Mask):
    """The keys that each row shows: (B, S) bool."""

    keys: Tensor
    ordinal = False

    def keep(self, q: View, k: View) -> Tensor:
        """Look the key up."""
        return self.keys[k.row, k.slot]


class ImageEncoder(nn.Module):
    """A ViT whose tokens are pooled by learned queries that attend to them, with a norm behind."""

    def __init__(self, config: CoCaConfig, recompute: bool = False) -> None:
        super().__init__()
        width, dim = config.image.dim, config.embed
        self.tower = ViT(replace(config.image, pool="cls"), recompute=recompute)
        self.tower.norm = nn.Identity()  # the queries bring a norm of their own
        self.query = nn.Parameter(torch.randn(config.queries, dim))
        attend = cross_attention(dim, config.pool_heads, memory_dim=width, pre=LayerNorm(width))
        self.block = Block(cross=Replace(LayerNorm(dim), attend))
        self.norm = LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the first query finds, (B, embed), in images (B, C, H, W)."""
        return self.found(images, 1)[:, 0]

    def found(self, images: Tensor, count: int | None = None) -> Tensor:
        """Return what all queries find, (B, queries, embed), or the first ``count`` of them."""
        x = self.tower.features(images).x
        query = self.query[:count].expand(x.shape[0], -1, -1)
        return self.norm(self.block(query, Ctx(memory=Memory(x))).x)


class TextEncoder(nn.Module):
    """The first half: causal, with a class token at the end that collects the text.

    As in open_clip, and so in all public weights, the padding that is hidden lies one column too far to the right: a
    token is hidden if the one *before* it is padding.
    """

    def __init__(self, config: CoCaConfig, recompute: bool = False) -> None:
        super().__init__()
        self.pad = config.pad
        shape = TextConfig(
            vocab=config.vocab,
            context=config.context + 1,
            dim=config.dim,
            depth=config.depth,
            heads=config.heads,
            embed=config.embed,
        )
        self.tower = TextTower(shape, recompute=recompute)
        self.cls_token = nn.Parameter(nn.init.normal_(torch.empty(config.dim), std=0.01))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings (B, embed) of ids (B, L), without work on padding that nothing looks at."""
        filled = (ids != self.pad).any(0).nonzero()
        return self._read(ids, min(int(filled.max()) + 2, ids.shape[1]) if len(filled) else 1)[0]

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings (B, embed) and the states (B, L, dim) of ids (B, L)."""
        return self._read(ids, ids.shape[1])

    def following(self, ids: Tensor, before: Tensor, cache: Cache) -> Tensor:
        """Return the states (B, n, dim) of ids (B, n) that follow ``before`` (B, m), which the cache has seen."""
        x = self.tower.positions(self.tower.tokens(ids), start=before.shape[1])
        shown = self._shown(torch.cat([before, ids], 1))[:, :-1]
        return self.tower.blocks(x, Ctx(mask=Shown(shown), cache=cache)).x

    def _read(self, ids: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        length, tower = ids.shape[1], self.tower
        x = tower.tokens(ids[:, :columns])
        x = torch.cat([x, self.cls_token.to(x.dtype).expand(len(x), 1, -1)], 1)
        # the class token stands after the padding, however much of that is left out
        places = torch.cat([torch.arange(columns, device=ids.device), torch.tensor([length], device=ids.device)])
        shown = self._shown(ids)[:, places]
        x = tower.blocks(tower.positions(x, places[None]), Ctx(mask=Shown(shown))).x
        return tower.proj(tower.norm(x[:, -1])), x[:, :-1]

    def _shown(self, ids: Tensor) -> Tensor:
        """Which keys are shown: (B, L + 1), the last one for the class token."""
        return F.pad(ids != self.pad, (1, 0), value=True)


class TextDecoder(nn.Module):
    """The second half: causal over the states of the first, and looking at the image."""

    def __init__(self, config: CoCaConfig, recompute: bool = False) -> None:
        super().__init__()
        dim, heads = config.dim, config.decoder_heads
        blocks = [
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
        ]
        self.blocks = Stack(blocks, run=recomputed if recompute else direct)
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, config.vocab, bias=False)
        trunc_normal(self)
        nn.init.normal_(self.head.weight, std=dim**-0.5)

    def forward(self, states: Tensor, image: Tensor | None, cache: Cache | None = None) -> Tensor:
        """Return what the head makes logits of, (B, L, dim).

        Args:
            states: of the first half, (B, L, dim); with a cache, of the new tokens only.
            image: (B, queries - 1, embed); a filled cache has it already.
            cache: of ``blocks.cache()``.
        """
        memory = None if image is None else Memory(image)
        return self.norm(self.blocks(states, Ctx(memory=memory, cache=cache)).x)


class CoCa(Towers):
    """Two towers and a captioner.

    Args:
        config: its shape.
        recompute: activation checkpointing: less memory in training for a third more time.
    """

    def __init__(self, config: CoCaConfig = CoCaConfig(), *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        self.image = ImageEncoder(config, recompute)
        self.image_proj = nn.Linear(config.embed, config.embed, bias=False)
        nn.init.normal_(self.image_proj.weight, std=config.embed**-0.5)
        self.text = TextEncoder(config, recompute)
        self.decoder = TextDecoder(config, recompute)
        self.logit_scale = nn.Parameter(torch.tensor(log(config.logit_scale)))
        self.logit_bias = None

    def forward(self, images: Tensor, ids: Tensor) -> Captioned:
        """Compare images (B, C, H, W) with texts (B, L) int64, and predict each text from its image."""
        x = self.image.found(images)
        text, states = self.text.read(ids)
        return Captioned(
            F.normalize(self.image_proj(x[:, 0]), dim=-1),
            F.normalize(text, dim=-1),
            self.logit_scale.exp(),
            None,
            self.decoder(states[:, :-1], x[:, 1:]),
        )

    def captioning_tokens(self, images: Tensor) -> Tensor:
        """Return what the decoder sees of images (B, C, H, W): (B, queries - 1, embed)."""
        return self.image.found(images)[:, 1:]

    def caption_logits(self, images: Tensor, ids: Tensor) -> Tensor:
        """Return the logits (B, L - 1, vocab) of the tokens 1 to L - 1 of texts (B, L), given their images."""
        _, states = self.text.read(ids)
        logits: Tensor = self.decoder.head(self.decoder(states[:, :-1], self.captioning_tokens(images)))
        return logits
