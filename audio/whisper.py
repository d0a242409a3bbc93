"""Whisper (Radford et al. 2022, arXiv:2212.04356): an encoder of log-mel frames, a decoder of text tokens."""

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from core.nn import (
    Block,
    Cache,
    Causal,
    Ctx,
    FixedPositions,
    LayerNorm,
    LearnedPositions,
    Memory,
    Mlp,
    Out,
    Residual,
    Stack,
    TiedEmbedding,
    Tokens,
    attention,
    coordinates,
    cross_attention,
    sinusoids,
)

__all__ = ["AudioEncoder", "TextDecoder", "Whisper", "WhisperConfig", "placed"]


@dataclass(frozen=True)
class WhisperConfig:
    """The shape of a Whisper model.

    Attributes:
        mels: bands of the log-mel spectrogram: 80, or 128 from large-v3 on.
        vocab: size of the vocabulary: 51864 English only, 51865 multilingual, 51866 from large-v3 on.
        audio_context: encoder positions, 20 ms each.
        text_context: decoder positions.
        audio_dim, audio_heads, audio_layers: of the encoder.
        text_dim, text_heads, text_layers: of the decoder.
        alignment_heads: (layer, head) of the cross-attention that follows the audio word by word, where that is known:
            something learnt, so that configs of one shape are equal whatever it is.
    """

    mels: int = 80
    vocab: int = 51865
    audio_context: int = 1500
    audio_dim: int = 384
    audio_heads: int = 6
    audio_layers: int = 4
    text_context: int = 448
    text_dim: int = 384
    text_heads: int = 6
    text_layers: int = 4
    alignment_heads: tuple[tuple[int, int], ...] = field(default=(), compare=False)

    @property
    def multilingual(self) -> bool:
        """Whether the vocabulary has languages."""
        return self.vocab >= 51865

    @property
    def languages(self) -> int:
        """How many languages the vocabulary has: 99, or 100 from large-v3 on (Cantonese)."""
        return self.vocab - 51765 - int(self.multilingual)


class AudioEncoder(nn.Module):
    """Two convolutions that halve the rate of the frames, fixed positions, and a stack."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        dim, heads = config.audio_dim, config.audio_heads
        self.conv1 = nn.Conv1d(config.mels, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.positions = FixedPositions(sinusoids(config.audio_context, dim))
        self.blocks = Stack(
            Block(
                attn=Residual(LayerNorm(dim), attention(dim, heads, bias="qvo")),
                mlp=Residual(LayerNorm(dim), Mlp(dim)),
            )
            for _ in range(config.audio_layers)
        )
        self.norm = LayerNorm(dim)

    def forward(self, mel: Tensor, ctx: Ctx = Ctx()) -> Out:
        """Encode log-mel frames (B, mels, frames) -> (B, frames / 2, audio_dim), with the notes of the stack.

        Of positions (1, L) in ``ctx.tokens.coords`` only these are encoded: (B, L, audio_dim).

        Raises:
            ValueError: if there are more frames than positions.
        """
        x = F.gelu(self.conv1(mel))
        x = F.gelu(self.conv2(x)).transpose(1, 2)  # (B, D, frames / 2) -> (B, frames / 2, D)
        x, notes = self.blocks(placed(x, self.positions, ctx), ctx)
        return Out(self.norm(x), notes)


def placed(x: Tensor, positions: FixedPositions, ctx: Ctx) -> Tensor:
    """Add positions to x (B, L, D); where the context has coordinates (1, K), only these stay: (B, K, D)."""
    coords = ctx.tokens.coords
    return positions(x) if coords is None else positions(x[:, coords[0]], coords)


class TextDecoder(nn.Module):
    """Token and position embeddings, a causal stack that looks at the audio, and the embedding again as the output."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        dim, heads = config.text_dim, config.text_heads
        self.tokens = TiedEmbedding(config.vocab, dim)
        self.positions = LearnedPositions(config.text_context, dim)
        self.blocks = Stack(
            Block(
                attn=Residual(LayerNorm(dim), attention(dim, heads, bias="qvo", mask=Causal())),
                cross=Residual(LayerNorm(dim), cross_attention(dim, heads, memory_dim=config.audio_dim, bias="qvo")),
                mlp=Residual(LayerNorm(dim), Mlp(dim)),
            )
            for _ in range(config.text_layers)
        )
        self.norm = LayerNorm(dim)

    def forward(self, tokens: Tensor, ctx: Ctx) -> Out:
        """Return the logits (B, L, vocab) of what follows each of tokens (B, L), with the notes of the stack.

        Raises:
            ValueError: if the tokens, with those in the cache, are more than the positions.
        """
        x, notes = self.states(tokens, ctx)
        return Out(self.logits(x), notes)

    def logits(self, x: Tensor) -> Tensor:
        """Map states (..., text_dim) to logits (..., vocab)."""
        return self.tokens.logits(x)

    def states(self, tokens: Tensor, ctx: Ctx) -> Out:
        """Return what :meth:`logits` are made of, (B, L, text_dim): mostly those of a few tokens are needed only.

        Raises:
            ValueError: if the tokens, with those in the cache, are more than the positions.
        """
        x = self.tokens(tokens)
        start: int | Tensor = 0 if ctx.cache is None else ctx.cache.length
        if isinstance(start, int) and ctx.tokens.coords is None and ctx.tokens.index is None:
            x = self.positions(x, start=start)
        else:
            x = self.positions(x, coordinates(ctx.tokens, x, start))
        x, notes = self.blocks(x, ctx)
        return Out(self.norm(x), notes)

    def cache(self) -> Cache:
        """Return an empty key/value cache."""
        return self.blocks.cache()


class Whisper(nn.Module):
    """Speech recognition and translation: ``encode`` the audio once, ``decode`` text token by token."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config)
        self.decoder = TextDecoder(config)

    def encode(self, mel: Tensor, want: Any = None) -> Tensor:
        """Encode log-mel frames (B, mels, frames) -> (B, frames / 2, audio_dim)."""
        return self.encoder(mel, Ctx(want=want)).x

    def decode(
        self,
        tokens: Tensor,
        audio: Tensor | None = None,
        cache: Cache | None = None,
        *,
        text: Tokens = Tokens(),
        want: Any = None,
    ) -> Out:
        """Return the logits (B, L, vocab) of what follows each of tokens (B, L).

        Args:
            tokens: with a cache, only those that it does not hold yet.
            audio: what :meth:`encode` returned (B, S, audio_dim); a filled cache has it already.
            cache: of :meth:`new_cache`.
            text: facts about the tokens, for padded or packed rows.
            want: what to capture, e.g. ``{5: {"cross": [0, 3]}}``: heads 0 and 3 of block 5's cross-attention.
        """
        memory = None if audio is None else Memory(audio)
        return self.decoder(tokens, Ctx(tokens=text, memory=memory, cache=cache, want=want))

    def forward(self, mel: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits (B, L, vocab) for log-mel frames (B, mels, frames) and tokens (B, L)."""
        return self.decode(tokens, self.encode(mel)).x

    def new_cache(self) -> Cache:
        """Return an empty key/value cache for :meth:`decode`."""
        return self.decoder.cache()
