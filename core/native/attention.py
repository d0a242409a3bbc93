"""Attention of a few new tokens: to those before them, and to a memory of 8-bit integers."""

import numpy as np
from numba import prange

from core.simd.rows import LOG2_E, exact_power

from .compiled import compiled, in_parallel

__all__ = ["look_around", "look_back"]

F = np.float32


@compiled
def _softmax(scores):  # type: ignore[no-untyped-def]
    """Probabilities of scores (S,), in place."""
    most = F(-np.inf)
    for t in range(len(scores)):
        most = max(most, scores[t])
    for t in range(len(scores)):
        scores[t] = exact_power((scores[t] - most) * LOG2_E)
    total = F(0)
    for t in range(len(scores)):
        total += scores[t]
    scale = F(1) / total
    for t in range(len(scores)):
        scores[t] *= scale


@compiled
def _scores(q, keys, scores):  # type: ignore[no-untyped-def]
    """Products of a query (d,) with keys (S, d), of any type."""
    for t in range(len(scores)):
        key = keys[t]
        total = F(0)
        for k in range(len(q)):
            total += q[k] * F(key[k])
        scores[t] = total


@compiled
def _weighed(weights, values, out):  # type: ignore[no-untyped-def]
    """Add values (S, d), of any type, by weights (S,) to out (d,): four at a time, to write it less often."""
    t = 0
    while t + 4 <= len(weights):
        w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        v0, v1, v2, v3 = values[t], values[t + 1], values[t + 2], values[t + 3]
        for k in range(len(out)):
            out[k] += (w0 * F(v0[k]) + w1 * F(v1[k])) + (w2 * F(v2[k]) + w3 * F(v3[k]))
        t += 4
    while t < len(weights):
        for k in range(len(out)):
            out[k] += weights[t] * F(values[t, k])
        t += 1


@compiled
def _scores_of(q, keys, table, group, begin, end, scores):  # type: ignore[no-untyped-def]
    """As `_scores`, with the keys of the tokens from `begin` to `end` of a text, which lie in pages."""
    size = keys.shape[2]
    t = begin
    while t < end:
        place = t % size
        many = min(size - place, end - t)
        _scores(q, keys[table[t // size], group, place : place + many], scores[t - begin : t - begin + many])
        t += many


@compiled
def _weighed_of(weights, values, table, group, begin, end, out):  # type: ignore[no-untyped-def]
    """As `_weighed`, with values that lie in pages."""
    size = values.shape[2]
    t = begin
    while t < end:
        place = t % size
        many = min(size - place, end - t)
        _weighed(weights[t - begin : t - begin + many], values[table[t // size], group, place : place + many], out)
        t += many


@in_parallel
def look_back(q, keys, values, tables, starts, window, sinks, out):  # type: ignore[no-untyped-def]
    """Causal self-attention of new tokens.

    Args:
        q: queries (B, L, h, d) with the scale of the scores in them.
        keys, values: (pages, groups, size, d) of the tokens before and of the new ones.
        tables: the pages of each row, (B, P).
        starts: how many tokens there were before in each row, (B,).
        window: how many tokens a query sees, its own included; 0 for all.
        sinks: how many of the first tokens it sees beside these.
        out: (B, L, h, d), written.
    """
    rows, length, heads, _ = q.shape
    share = heads // keys.shape[1]
    for item in prange(rows * heads):
        row, head = item // heads, item % heads
        table, group = tables[row], head // share
        buffer = np.empty(starts[row] + length, np.float32)
        for i in range(length):
            end = starts[row] + i + 1
            begin = max(0, end - window) if window else 0
            kept = min(sinks, begin)
            scores, mine = buffer[: kept + end - begin], out[row, i, head]
            _scores_of(q[row, i, head], keys, table, group, 0, kept, scores)
            _scores_of(q[row, i, head], keys, table, group, begin, end, scores[kept:])
            _softmax(scores)
            mine[:] = F(0)
            _weighed_of(scores, values, table, group, 0, kept, mine)
            _weighed_of(scores[kept:], values, table, group, begin, end, mine)


@in_parallel
def look_around(q, memory, places, out):  # type: ignore[no-untyped-def]
    """Attention to a memory, of which several rows may see the same.

    Args:
        q: queries (B, L, h, d) with the scale of the scores in them.
        memory: keys and values, a `core.native.memory.Memory`.
        places: which memory each row sees, (B,).
        out: (B, L, h, d), written.
    """
    keys, key_scales, values, value_scales = memory
    rows, length, heads, _ = q.shape
    for item in prange(keys.shape[0] * heads):
        place, head = item // heads, item % heads
        scores = np.empty(keys.shape[2], np.float32)
        for row in range(rows):
            if places[row] != place:
                continue
            for i in range(length):
                _scores(q[row, i, head], keys[place, head], scores)
                for t in range(len(scores)):
                    scores[t] *= key_scales[place, head, t]
                _softmax(scores)
                for t in range(len(scores)):
                    scores[t] *= value_scales[place, head, t]
                out[row, i, head] = F(0)
                _weighed(scores, values[place, head], out[row, i, head])
