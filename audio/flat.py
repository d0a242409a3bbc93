"""Whisper's text decoder for inference on a processor: 8-bit integers, and one plain function a layer.

It computes what `audio.whisper.TextDecoder` computes. A step of one token is a few hundred small operations, so what
PyTorch and Python add to each of them counts: queries, keys and values come from one product, and nothing is called
through modules that isn't needed.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio.whisper import TextDecoder
from core.nn import Attention, Cache, Ctx, Growing, Mlp, Once, Out, Residual, Tokens
from core.nn.attention import captured
from core.nn.blocked import blocked
from core.nn.mask import Causal, Sight
from core.nn.rowwise import Int8Embedding, Int8Linear

__all__ = ["FlatDecoder"]

NOTHING: Mapping[str, Any] = {}


class FlatDecoder(nn.Module):
    """As :class:`audio.whisper.TextDecoder`, for float32 or bfloat16 audio.

    Args:
        decoder: the exact one, float32 on a processor; it loses its layers one by one to this one.
    """

    def __init__(self, decoder: TextDecoder) -> None:
        super().__init__()
        self.tokens = Int8Embedding(decoder.tokens)
        self.positions = decoder.positions
        layers: list[nn.Module] = []
        while len(decoder.blocks):
            layers.append(_Layer(decoder.blocks[0]))
            del decoder.blocks[0]
        self.layers = nn.ModuleList(layers)
        self.norm = decoder.norm

    def forward(self, tokens: Tensor, ctx: Ctx) -> Out:
        """Return the logits (B, L, vocab) of what follows each of tokens (B, L), with the notes of the layers.

        Of ``ctx``, the memory, the cache and the wishes for attention weights count; rows are as long as they are.

        Raises:
            ValueError: if the tokens, with those in the cache, are more than the positions.
        """
        rows, length = tokens.shape
        start = 0 if ctx.cache is None else ctx.cache.length
        x = self.positions(self.tokens(tokens), start=start).flatten(0, 1)  # (B, L, D) -> (B*L, D)
        memory = None if ctx.memory is None else ctx.memory.x
        notes: dict[Any, Any] = {}
        for number, layer in enumerate(self.layers):
            slots = NOTHING if ctx.cache is None else ctx.cache[number]
            wishes = NOTHING if ctx.want is None else ctx.want.get(number, NOTHING)
            x = layer(x, rows, memory, slots, wishes, notes.setdefault(number, {}) if wishes else {})
        return Out(self.tokens.logits(self.norm(x)).unflatten(0, (rows, length)), notes)

    def cache(self) -> Cache:
        """Return an empty key/value cache."""
        return Cache({number: {"attn": Growing(), "cross": Once()} for number in range(len(self.layers))})


class _Layer(nn.Module):
    """One block: causal self-attention, attention to the audio, feed-forward."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        attn, cross, mlp = (_branch(block, name) for name in ("attn", "cross", "mlp"))
        own, other, feed = attn.fn, cross.fn, mlp.fn
        assert isinstance(own, Attention) and isinstance(other, Attention) and isinstance(feed, Mlp)  # noqa: PT018
        self.head_dim = own.q.head_dim
        self.norms = nn.ModuleList([attn.norm, cross.norm, mlp.norm])
        self.qkv = Int8Linear(_stacked([_scaled(own.q.proj, self.head_dim), own.k.proj, own.v.proj]))
        self.out = Int8Linear(own.out)  # type: ignore[arg-type]
        self.cross_q = Int8Linear(_scaled(other.q.proj, self.head_dim))
        self.cross_kv = Int8Linear(_stacked([other.k.proj, other.v.proj]))
        self.cross_out = Int8Linear(other.out)  # type: ignore[arg-type]
        self.fc1, self.fc2 = Int8Linear(feed.fc1), Int8Linear(feed.fc2)

    def forward(
        self,
        x: Tensor,
        rows: int,
        memory: Tensor | None,
        slots: Mapping[str, Any],
        wishes: Mapping[str, Any],
        notes: dict[str, Any],
    ) -> Tensor:
        """Map x (B*L, D), changing it, for B rows."""
        first, second, third = self.norms
        x += self._to_itself(first(x), rows, slots, wishes, notes)
        x += self._to_audio(second(x), rows, memory, slots, wishes, notes)
        x += self.fc2(F.gelu(self.fc1(third(x))))
        return x

    def _to_itself(
        self, x: Tensor, rows: int, slots: Mapping[str, Any], wishes: Mapping[str, Any], notes: dict[str, Any]
    ) -> Tensor:
        qkv = self.qkv(x).view(rows, -1, 3, x.shape[-1] // self.head_dim, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (B, h, L, d)
        if "attn" in slots:
            k, v, _ = slots["attn"].read(lambda: (k, v, Tokens()))
        if wishes.get("attn"):
            notes["attn"] = {"weights": captured(q, k, Sight(Causal()), None, 1.0, wishes["attn"])}
        length, size = q.shape[2], k.shape[2]
        mask = None
        if 1 < length < size:
            mask = q.new_ones(length, size, dtype=torch.bool).tril(size - length)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=length == size > 1, scale=1.0)
        return self.out(y.transpose(1, 2).reshape(x.shape))

    def _to_audio(
        self,
        x: Tensor,
        rows: int,
        memory: Tensor | None,
        slots: Mapping[str, Any],
        wishes: Mapping[str, Any],
        notes: dict[str, Any],
    ) -> Tensor:
        def make() -> tuple[Tensor, Tensor, Tokens]:
            assert memory is not None
            k, v = self.cross_kv(memory).chunk(2, dim=-1)
            return self._heads(k), self._heads(v), Tokens()

        q = self._heads(self.cross_q(x).view(rows, -1, x.shape[-1]))
        k, v, _ = slots["cross"].read(make) if "cross" in slots else make()
        if wishes.get("cross"):
            notes["cross"] = {"weights": captured(q, k, Sight(), None, 1.0, wishes["cross"])}
        y = blocked(q, k, v, Sight(), None, 1.0)
        return self.cross_out(y.transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, L, h*d) -> (B, h, L, d)


def _branch(block: nn.Module, name: str) -> Residual:
    branch = block.get_submodule(name)
    assert isinstance(branch, Residual)
    return branch


def _scaled(linear: nn.Linear, head_dim: int) -> nn.Linear:
    """A projection of queries that has the scale of the scores in it."""
    scaled = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
    scaled.weight = nn.Parameter(linear.weight * head_dim**-0.5, requires_grad=False)
    if linear.bias is not None:
        scaled.bias = nn.Parameter(linear.bias * head_dim**-0.5, requires_grad=False)
    return scaled


def _stacked(layers: list[nn.Linear]) -> nn.Linear:
    """Several layers of one input as one; a bias that a layer lacks is 0."""
    given: list[Tensor] = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers
    ]
    stacked = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers), device="meta")
    stacked.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]), requires_grad=False)
    stacked.bias = nn.Parameter(torch.cat(given), requires_grad=False)
    return stacked
