"""Decoder language models for inference on a processor: one compiled function writes a token.

It computes what `multimodal.decoder.Decoder` computes, in float32 or with weights of 8-bit integers; see `core.native`.
Long prompts are read by the decoder itself, one by one, with layers of `multimodal.compiled_prompt` in it; its weights
are those that the kernels read. Keys and values lie in pages (`core.nn.paged`), so that new tokens of any number of
texts, and of any number of tokens each, share a pass. A row's result doesn't depend on the rows beside it, to the bit.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.native import Matrix, Weight, add, compiled, linear, linear_swiglu, look_back, one_at_a_time, rms_norm, rotate
from core.native.stacked import layer_of, stacked_floats, stacked_integers
from core.nn import (
    Attention,
    BlockTable,
    Cache,
    Ctx,
    GatedMlp,
    Growing,
    Out,
    Paged,
    Pages,
    Residual,
    RMSNorm,
    Rope,
    Slot,
    Tokens,
)
from core.simd import has_vnni
from multimodal.compiled_prompt import use_kernels
from multimodal.decoder import Decoder

__all__ = ["CompiledDecoder", "can_compile", "is_small"]

FEW = 16  # tokens of a row up to which the kernels of float32 are faster than PyTorch's products
SEVERAL = 256  # tokens of a row that the kernels of 8-bit integers read, together with those of other rows
SMALL = 10_000_000  # parameters
Precision = Literal["float32", "int8"]


class _Weights(NamedTuple):
    """Of all layers; the first axis counts them."""

    own_norm: np.ndarray  # (layers, D)
    qkv: Any  # a Matrix or a Weight
    q_norm: np.ndarray  # (layers, d), or (layers, 0) without one
    k_norm: np.ndarray
    out: Any
    norm: np.ndarray
    gate_up: Any
    down: Any
    windows: np.ndarray  # (layers,) how many tokens one sees, 0 for all
    last_norm: np.ndarray  # (D,)


@compiled
def _states(x, weights, eps, scale, sinks, heads, cos, sin, storage, tables, starts, threads):  # type: ignore[no-untyped-def]
    """Change embeddings x (B, L, D) of new tokens into the states of the last layer.

    `storage` (layers, 2, pages, groups, size, d) gets their keys and values; `cos` and `sin` are (B * L, d / 2).
    """
    rows, length, dim = x.shape
    groups, size, head_dim = storage.shape[3], storage.shape[4], storage.shape[5]
    count = rows * length
    flat = x.reshape(count, dim)
    normed, y = np.empty_like(flat), np.empty_like(flat)
    qkv = np.empty((count, (heads + 2 * groups) * head_dim), np.float32)
    queries = np.empty((rows, length, heads, head_dim), np.float32)
    seen = np.empty((rows, length, heads, head_dim), np.float32)
    for number in range(len(weights.windows)):
        down = layer_of(weights.down, number)
        hidden = np.empty((count, weights.gate_up.bias.shape[1] // 2), np.float32)
        keys, values = storage[number, 0], storage[number, 1]

        rms_norm(flat, weights.own_norm[number], eps, normed)
        linear(normed, layer_of(weights.qkv, number), qkv, threads)
        for token in range(count):
            row, i = token // length, token % length
            parts = qkv[token].reshape(heads + 2 * groups, head_dim)
            turned = parts[: heads + groups]
            if weights.q_norm.shape[1]:
                rms_norm(parts[:heads], weights.q_norm[number], eps, parts[:heads])
                rms_norm(turned[heads:], weights.k_norm[number], eps, turned[heads:])
            rotate(turned, cos[token], sin[token])
            page, place = tables[row, (starts[row] + i) // size], (starts[row] + i) % size
            for head in range(heads):
                for k in range(head_dim):
                    queries[row, i, head, k] = parts[head, k] * scale
            for group in range(groups):
                for k in range(head_dim):
                    keys[page, group, place, k] = parts[heads + group, k]
                    values[page, group, place, k] = parts[heads + groups + group, k]
        look_back(queries, keys, values, tables, starts, weights.windows[number], sinks, seen)
        linear(seen.reshape(count, heads * head_dim), layer_of(weights.out, number), y, threads)
        add(flat, y)

        rms_norm(flat, weights.norm[number], eps, normed)
        linear_swiglu(normed, layer_of(weights.gate_up, number), hidden, threads)
        linear(hidden, down, y, threads)
        add(flat, y)
    rms_norm(flat, weights.last_norm, eps, flat)


def can_compile(decoder: Decoder) -> bool:
    """Whether there are kernels for a decoder: RMSNorm, rotary positions and SwiGLU, on a processor, no experts."""
    config = decoder.config
    plain = config.norm == "rms" and config.mlp == "swiglu" and config.positions == "rope" and config.experts is None
    return plain and decoder.tokens.weight.device.type == "cpu"


def is_small(decoder: Decoder) -> bool:
    """Whether kernels save a decoder less than its first text would wait for them to be compiled."""
    return sum(parameter.numel() for parameter in decoder.parameters()) <= SMALL


class CompiledDecoder(nn.Module):
    """As :class:`multimodal.decoder.Decoder`, for inference.

    Args:
        decoder: float32 on a processor. It is taken over: with ``float32`` it computes the same, with ``int8`` its
            linear layers become integers too.
        precision: of the weights. All that is computed is float32; beside integers, the products and the
            attention of prompts that are longer than :attr:`few` tokens are in bfloat16.

    Attributes:
        few: tokens of a row up to which the kernels read it.

    Raises:
        InputError: for a decoder that :func:`can_compile` refuses.
    """

    def __init__(self, decoder: Decoder, precision: Precision = "float32") -> None:
        super().__init__()
        if not can_compile(decoder):
            raise InputError(
                "only decoders with RMSNorm, rotary positions and SwiGLU on a processor are compiled: "
                "use the decoder as it is"
            )
        decoder.float().eval().requires_grad_(False)
        self.config = decoder.config
        self.exact = decoder
        self.precision = precision
        self.few = SEVERAL if precision == "int8" and has_vnni() else FEW
        owns, feeds = _branches(decoder, "attn"), _branches(decoder, "mlp")
        attentions: list[Attention] = [branch.fn for branch in owns]  # type: ignore[misc]
        mlps: list[GatedMlp] = [branch.fn for branch in feeds]  # type: ignore[misc]
        first = attentions[0]
        self.heads, self.head_dim = self.config.heads, first.q.head_dim
        self.scale = np.float32(self.head_dim**-0.5 if first.scale is None else first.scale)
        assert isinstance(first.q.turn, Rope)
        self.rope = first.q.turn
        make = stacked_floats if precision == "float32" else stacked_integers
        layers = self.config.window_layers
        windows = [self.config.window or 0 if layers is None or number in layers else 0 for number in range(len(owns))]
        self.weights = _Weights(
            own_norm=_norms([branch.norm for branch in owns]),
            qkv=make([[one.q.proj, one.k.proj, one.v.proj] for one in attentions]),
            q_norm=_norms([one.q.norm for one in attentions]),
            k_norm=_norms([one.k.norm for one in attentions]),
            out=make([[one.out] for one in attentions]),  # type: ignore[list-item]
            norm=_norms([branch.norm for branch in feeds]),
            gate_up=make([[one.gate, one.up] for one in mlps]),
            down=make([[one.down] for one in mlps]),
            windows=np.array(windows),
            last_norm=_norms([decoder.norm])[0],
        )
        output = nn.Linear(self.config.dim, self.config.vocab, bias=False, device="meta")
        output.weight = nn.Parameter(decoder.output, requires_grad=False)
        if precision == "float32":
            self.table: Any = Matrix(output.weight.numpy(), np.zeros(self.config.vocab, np.float32))
        else:
            self.table = Weight.of(output)
        weights = self.weights
        use_kernels(owns, feeds, weights.qkv, weights.out, weights.gate_up, weights.down, self.rope)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (B, L, dim) of tokens (B, L)."""
        return self.exact.embed(ids)

    @torch.no_grad()
    def states(self, x: Tensor, ctx: Ctx = Ctx()) -> Out:
        """Return the normalised states (B, L, dim) that :meth:`logits` are made of; there are no notes.

        Args:
            x: tokens (B, L) or embeddings (B, L, dim), those that the cache does not hold yet.
            ctx: its cache is one of :meth:`cache`. Of its tokens, ``coords``, else ``index``, say where they stand;
                those of index -1 are padding: they are left out, and their states are 0.

        Raises:
            ValueError: for masks, biases, segments and wishes, which the exact decoder knows.
        """
        if any(part is not None for part in (ctx.mask, ctx.bias, ctx.want, ctx.tokens.segment)):
            raise ValueError("compiled decoders know no masks, biases, segments or wishes: use the exact one")
        x = x if x.is_floating_point() else self.embed(x)
        cache = self.cache() if ctx.cache is None else ctx.cache
        pages = _pages(cache)
        if not pages.rows:
            pages.rows = [BlockTable() for _ in range(len(x))]
        if len(pages.rows) != len(x):
            raise ValueError(f"a cache of {len(pages.rows)} rows was given {len(x)}")
        index, length = ctx.tokens.index, x.shape[1]
        starts = torch.tensor(pages.lengths())[:, None]
        place = next((c for c in (ctx.tokens.coords, index) if c is not None), starts + torch.arange(length))
        place = place.expand(len(x), -1)
        padded = index is not None and bool((index < 0).any())
        if length <= self.few and not padded:
            y = self._few(x.flatten(0, 1), place.flatten(), pages, [length] * len(x))
            return Out(y.view(x.shape), {})
        kept = torch.ones_like(place, dtype=torch.bool) if index is None else (index >= 0).expand(len(x), -1)
        found = self._parts(
            [row[mine] for row, mine in zip(x, kept, strict=True)],
            [row[mine] for row, mine in zip(place, kept, strict=True)],
            cache,
        )
        y = torch.zeros(x.shape)
        for number, (row, states) in enumerate(zip(pages.rows, found, strict=True)):
            y[number, kept[number]] = states
            row.skipped += length - len(states)
        return Out(y, {})

    @torch.no_grad()
    def last_states(self, parts: Sequence[Tensor], cache: Cache) -> Tensor:
        """Return the normalised states (B, dim) that the next tokens of several texts are made of.

        Args:
            parts: of each row of the cache's pages, the tokens (L,) or embeddings (L, dim) that these don't hold yet.
            cache: one of :meth:`cache`.
        """
        starts = _pages(cache).lengths()
        places = [start + torch.arange(len(part)) for start, part in zip(starts, parts, strict=True)]
        embedded = [part if part.is_floating_point() else self.embed(part[None])[0] for part in parts]
        return torch.stack([states[-1] for states in self._parts(embedded, places, cache)])

    def logits(self, states: Tensor) -> Tensor:
        """Map states (..., dim) to logits (..., vocab)."""
        rows = states.reshape(-1, states.shape[-1]).contiguous()
        if len(rows) > FEW and self.precision == "float32":
            return self.exact.logits(states)
        y = torch.empty(*states.shape[:-1], self.config.vocab)
        with one_at_a_time() as threads:
            linear(rows.numpy(), self.table, y.view(len(rows), -1).numpy(), threads)
        return y

    def forward(self, x: Tensor, ctx: Ctx = Ctx()) -> Out:
        """Return the logits (B, L, vocab) of what follows each of x, as :meth:`states` takes it."""
        states, notes = self.states(x, ctx)
        return Out(self.logits(states), notes)

    def cache(self, make: Callable[[], Slot] = Growing) -> Cache:
        """Return an empty cache, which is one of pages: of the pool that `make` belongs to (``Pages().slot``)."""
        cache = self.exact.cache(make)
        return cache if isinstance(next(cache.slots()), Paged) else self.exact.cache(Pages().slot)

    def _parts(self, parts: Sequence[Tensor], places: Sequence[Tensor], cache: Cache) -> list[Tensor]:
        """States (L, D) of new tokens of each row: their embeddings (L, D), however many, and where they stand (L,)."""
        pages, found = _pages(cache), list(parts)
        counts = [len(part) if len(part) <= self.few else 0 for part in parts]
        short = [number for number, count in enumerate(counts) if count]
        if short:
            x, place = (torch.cat([given[number] for number in short]) for given in (parts, places))
            split = self._few(x, place, pages, counts).split([counts[number] for number in short])
            for number, states in zip(short, split, strict=True):
                found[number] = states
        rows = pages.rows
        try:
            for number, part in enumerate(parts):
                if len(part) > self.few:
                    pages.rows = [rows[number]]
                    ctx = Ctx(tokens=Tokens(coords=places[number][None]), cache=cache)
                    found[number] = self.exact.states(part[None].float(), ctx).x[0]
        finally:
            pages.rows = rows
        return found

    def _few(self, x: Tensor, place: Tensor, pages: Pages, counts: Sequence[int]) -> Tensor:
        """States (N, D) of a few tokens of each row, `counts` many of each, one row's after another's."""
        y = x.float().clone(memory_format=torch.contiguous_format)
        starts, many = np.array(pages.lengths()), np.array(counts)
        row = np.repeat(np.arange(len(many)), many)
        at = np.arange(len(y)) + (starts - many.cumsum() + many)[row]  # each token's place in its text
        pages.advance(counts)
        groups = self.config.heads if self.config.kv_heads is None else self.config.kv_heads
        storage = pages.allocate(groups, self.head_dim, y)
        angle = place[:, None].clamp(min=0) * self.rope.frequencies.flatten()  # (N, n)
        cos, sin = (part.mul_(self.rope.magnitude).numpy() for part in (angle.cos(), angle.sin()))
        eps, tables, sinks = np.float32(self.config.eps), pages.tables().numpy()[row], self.config.sinks
        with one_at_a_time() as threads:
            # each token is a row of one: what it sees is written before it looks back
            _states(
                y[:, None].numpy(), self.weights, eps, self.scale, sinks, self.heads, cos, sin, storage.numpy(), tables,
                at, threads,
            )  # fmt: skip
        page = torch.from_numpy(np.take_along_axis(tables, at[:, None] // pages.size, 1)[:, 0])
        pages.index[page, torch.from_numpy(at % pages.size)] = torch.from_numpy(at)  # as the exact decoder will see it
        return y


def _branches(decoder: Decoder, name: str) -> list[Residual]:
    branches = [block.get_submodule(name) for block in decoder.blocks]
    assert all(isinstance(branch, Residual) for branch in branches)
    return branches  # type: ignore[return-value]


def _norms(norms: Sequence[nn.Module | None]) -> np.ndarray:
    """The weights of norms (layers, D); (layers, 0) where there are none."""
    weights = [norm.weight.detach().float() if isinstance(norm, RMSNorm) else torch.empty(0) for norm in norms]
    return torch.stack(weights).numpy()


def _pages(cache: Cache) -> Pages:
    slot = next(cache.slots())
    if not isinstance(slot, Paged):
        raise ValueError(f"compiled decoders keep keys and values in pages, not in a {type(slot).__name__} slot")
    return slot.pages
