"""Whisper's text decoder for inference on a processor: 8-bit integers, and one compiled function a layer.

It computes what `audio.whisper.TextDecoder` computes; see `core.native`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from audio.whisper import TextDecoder
from core.native import (
    Memory,
    Norm,
    StepCache,
    Weight,
    add,
    compiled,
    layer_norm,
    linear,
    linear_gelu,
    look_around,
    look_back,
    one_at_a_time,
)
from core.nn import Attention, Ctx, Mlp, Out, Residual
from core.nn.attention import captured
from core.nn.mask import Causal, Sight
from core.nn.tiled import int8_linear

__all__ = ["CompiledDecoder"]


class _Layer(NamedTuple):
    """The weights of one block: causal self-attention, attention to the audio, feed-forward."""

    own_norm: Norm
    qkv: Weight
    own_out: Weight
    cross_norm: Norm
    cross_q: Weight
    cross_out: Weight
    norm: Norm
    fc1: Weight
    fc2: Weight


@compiled
def _layer(x, layer, own, memory, places, pages, start, threads, queries):  # type: ignore[no-untyped-def]
    """Change x (B*L, D), what goes into a block, into what comes out.

    ``own`` (keys and values, B, h, room, d), a page a row as ``pages`` (B, 1) say, gets the new keys and values;
    ``queries`` (own and cross, B, L, h, d) too.
    """
    count, dim = x.shape
    _, rows, length, heads, head_dim = queries.shape
    normed, y = np.empty_like(x), np.empty_like(x)
    seen = np.empty((rows, length, heads, head_dim), np.float32)

    layer_norm(x, layer.own_norm, normed)
    qkv = np.empty((count, 3 * dim), np.float32)
    linear(normed, layer.qkv, qkv, threads)
    parts = qkv.reshape(rows, length, 3, heads, head_dim)
    for row in range(rows):
        for i in range(length):
            queries[0, row, i] = parts[row, i, 0]
            for head in range(heads):
                own[0, row, head, start + i] = parts[row, i, 1, head]
                own[1, row, head, start + i] = parts[row, i, 2, head]
    look_back(queries[0], own[0], own[1], pages, np.full(rows, start), 0, 0, seen)
    linear(seen.reshape(count, dim), layer.own_out, y, threads)
    add(x, y)

    layer_norm(x, layer.cross_norm, normed)
    linear(normed, layer.cross_q, queries[1].reshape(count, dim), threads)
    look_around(queries[1], memory, places, seen)
    linear(seen.reshape(count, dim), layer.cross_out, y, threads)
    add(x, y)

    layer_norm(x, layer.norm, normed)
    hidden = np.empty((count, len(layer.fc1.codes)), np.float32)
    linear_gelu(normed, layer.fc1, hidden, threads)
    linear(hidden, layer.fc2, y, threads)
    add(x, y)


class CompiledDecoder(nn.Module):
    """As :class:`audio.whisper.TextDecoder`, for float32 or bfloat16 audio.

    Args:
        decoder: the exact one, float32 on a processor; it loses its layers one by one to this one.
    """

    def __init__(self, decoder: TextDecoder) -> None:
        super().__init__()
        self.positions = decoder.positions
        self.norm = Norm.of(decoder.norm)
        self.table = Weight.of(decoder.tokens)
        self.layers: list[_Layer] = []
        self.to_memory = nn.ModuleList()
        while len(decoder.blocks):
            block = decoder.blocks[0]
            own, cross = (_attention(block, name) for name in ("attn", "cross"))
            self.head_dim = own.q.head_dim
            self.heads = own.q.proj.out_features // self.head_dim
            self.to_memory.append(int8_linear(_stacked(cross.k.proj, cross.v.proj)))
            self.layers.append(_weights(block, own, cross))
            del decoder.blocks[0]

    def forward(self, tokens: Tensor, ctx: Ctx) -> Out:
        """Return the logits (B, L, vocab) of what follows each of tokens (B, L), with the notes of the layers.

        Of ``ctx``, the memory, the cache and the wishes for attention weights count; rows are as long as they are.

        Raises:
            ValueError: if the tokens, with those in the cache, are more than the positions.
        """
        x, notes = self.states(tokens, ctx)
        return Out(self.logits(x), notes)

    def states(self, tokens: Tensor, ctx: Ctx) -> Out:
        """Return what :meth:`logits` are made of, (B, L, D).

        Raises:
            ValueError: if the tokens, with those in the cache, are more than the positions.
        """
        rows, length = tokens.shape
        cache = self.cache() if ctx.cache is None else ctx.cache
        assert isinstance(cache, StepCache)
        if not cache.memories:
            assert ctx.memory is not None
            self._remember(ctx.memory.x, cache)
        x = self.positions(self._embedded(tokens), start=cache.length).contiguous()
        array = x.view(rows * length, -1).numpy()
        start = cache.make_room(rows, length)
        queries = np.empty((2, rows, length, self.heads, self.head_dim), np.float32)
        places = cache.places.numpy()
        pages = np.arange(rows)[:, None]
        notes: dict[Any, Any] = {}
        for number, layer in enumerate(self.layers):
            own = cache.own[number]
            with one_at_a_time() as threads:
                _layer(array, layer, own.numpy(), cache.memories[number], places, pages, start, threads, queries)
            wishes = {} if ctx.want is None else ctx.want.get(number, {})
            if wishes:
                notes[number] = self._looks(wishes, queries, own[0, :, :, : cache.length], cache, number)
        layer_norm(array, self.norm, array)
        return Out(x, notes)

    def logits(self, x: Tensor) -> Tensor:
        """Map states (..., D) to logits (..., vocab)."""
        rows = x.reshape(-1, x.shape[-1]).numpy()
        y = torch.empty(*x.shape[:-1], len(self.table.codes))
        with one_at_a_time() as threads:
            linear(rows, self.table, y.view(len(rows), -1).numpy(), threads)
        return y

    def cache(self) -> StepCache:
        """Return an empty key/value cache."""
        return StepCache(len(self.layers), self.heads, self.head_dim)

    def _embedded(self, tokens: Tensor) -> Tensor:
        picked = tokens.numpy()
        return torch.from_numpy(self.table.codes[picked] * self.table.scales[picked][..., None])

    def _remember(self, audio: Tensor, cache: StepCache) -> None:
        """Keys and values of encoded audio (B, S, D), for all layers."""
        cache.places = torch.arange(len(audio))
        for project in self.to_memory:
            memory = Memory.empty(len(audio), self.heads, audio.shape[1], self.head_dim)
            for number, window in enumerate(audio):
                memory.write(number, project(window.float()))
            cache.memories.append(memory)

    def _looks(
        self, wishes: Mapping[str, Any], queries: np.ndarray, keys: Tensor, cache: StepCache, number: int
    ) -> dict[str, Any]:
        """Where the heads that are asked for look."""
        notes = {}
        own, cross = torch.from_numpy(queries.copy()).transpose(2, 3)  # each (B, h, L, d)
        if wishes.get("attn"):
            notes["attn"] = {"weights": captured(own, keys, Sight(Causal()), None, 1.0, wishes["attn"])}
        if wishes.get("cross"):
            memory = cache.memories[number]
            codes, scales = (torch.from_numpy(array)[cache.places] for array in (memory.keys, memory.key_scales))
            notes["cross"] = {
                "weights": captured(cross, codes * scales[..., None], Sight(), None, 1.0, wishes["cross"])
            }
        return notes


def _weights(block: nn.Module, own: Attention, cross: Attention) -> _Layer:
    feed = _branch(block, "mlp").fn
    assert isinstance(feed, Mlp)
    return _Layer(
        own_norm=_norm(block, "attn"),
        qkv=Weight.of(_scaled(own.q.proj, own.q.head_dim), own.k.proj, own.v.proj),
        own_out=Weight.of(own.out),  # type: ignore[arg-type]
        cross_norm=_norm(block, "cross"),
        cross_q=Weight.of(_scaled(cross.q.proj, cross.q.head_dim)),
        cross_out=Weight.of(cross.out),  # type: ignore[arg-type]
        norm=_norm(block, "mlp"),
        fc1=Weight.of(feed.fc1),
        fc2=Weight.of(feed.fc2),
    )


def _norm(block: nn.Module, name: str) -> Norm:
    norm = _branch(block, name).norm
    assert isinstance(norm, nn.LayerNorm)
    return Norm.of(norm)


def _attention(block: nn.Module, name: str) -> Attention:
    attention = _branch(block, name).fn
    assert isinstance(attention, Attention)
    return attention


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


def _stacked(*layers: nn.Linear) -> nn.Linear:
    """Several layers of one input as one; a bias that a layer lacks is 0."""
    given: list[Tensor] = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers
    ]
    stacked = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers), device="meta")
    stacked.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]), requires_grad=False)
    stacked.bias = nn.Parameter(torch.cat(given), requires_grad=False)
    return stacked
