"""Word timestamps: where in its window each word was heard, by what the decoder's cross-attention looks at.

Source: openai/whisper ``whisper/timing.py``. The alignment heads' weights are captured beside the fused attention, and
the cheapest path through them is found along anti-diagonals (dynamic time warping, Sakoe & Chiba 1978).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audio.alignment_heads import alignment_heads
from audio.tokenizer import Task, Tokenizer
from audio.whisper import Whisper

__all__ = ["Aligner", "Timing", "dtw", "median_filter"]

FILTER = 7  # encoder positions that the median is taken of
STRIDE = 2  # log-mel frames at an encoder position
STEPS_PER_SECOND = 50  # encoder positions

_HELD = 1 << 26  # float32 numbers, logits and captured weights, that one call of the model may leave: 256 MiB


class Timing(NamedTuple):
    """A word of a window."""

    text: str  # as the model wrote it: most begin with a space
    tokens: tuple[int, ...]
    start: float  # seconds from the start of the window
    end: float
    probability: float  # mean over its tokens


class Aligner:
    """Finds when each word of a known text was spoken."""

    def __init__(self, model: Whisper, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        pairs = alignment_heads(model.config)
        self.heads = {layer: [head for where, head in pairs if where == layer] for layer, _ in pairs}

    @torch.inference_mode()
    def __call__(
        self,
        audio: Tensor,
        texts: Sequence[Sequence[int]],
        frames: Sequence[int],
        language: str | Sequence[str] = "en",
        task: Task = "transcribe",
    ) -> list[list[Timing]]:
        """Align the words of each window; a window gives the same result alone and in a batch.

        Args:
            audio: encoded windows (B, S, D), as the model itself hears them (:meth:`audio.decode.Decoder.heard`).
            texts: what was said in each, as text tokens, without timestamps. What is too long for the decoder's
                positions is left out at the end.
            frames: log-mel frames of each that hold audio; what follows is padding.
            language: that is spoken, in all or in each.
            task: what was written: words of a translation are split as English is.

        Raises:
            InputError: for a language or task that the model doesn't know.
        """
        languages = [language] * len(texts) if isinstance(language, str) else list(language)
        starts = [[*self.tokenizer.sot_sequence(code, task), self.tokenizer.no_timestamps] for code in languages]
        room = self.model.config.text_context - max(map(len, starts), default=0) - 1
        texts = [text[:room] for text in texts]
        found: list[list[Timing]] = [[] for _ in texts]
        spoken = [n for n, text in enumerate(texts) if text and frames[n] >= STRIDE]
        for group in self._groups(spoken, texts):
            rows = [[*starts[n], *texts[n], self.tokenizer.eot] for n in group]
            for n, row in zip(group, self._looks(audio[group], rows), strict=True):
                written = languages[n] if task == "transcribe" else "en"
                found[n] = self._timings(*row, len(starts[n]), list(texts[n]), frames[n], written)
        return found

    def _groups(self, rows: list[int], texts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Windows that are aligned at once: as many as memory allows."""
        config = self.model.config
        heads = sum(map(len, self.heads.values()))
        longest = max((len(texts[n]) for n in rows), default=0) + 5  # with what stands around the text
        size = max(1, _HELD // (longest * (config.vocab + heads * config.audio_context)))
        for first in range(0, len(rows), size):
            yield rows[first : first + size]

    def _looks(self, audio: Tensor, rows: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each row of tokens its logits (L, V), and where the heads look (heads, L, S)."""
        tokens = torch.full((len(rows), max(map(len, rows))), self.tokenizer.eot)
        for n, row in enumerate(rows):
            tokens[n, : len(row)] = torch.tensor(row)
        want = {layer: {"cross": heads} for layer, heads in self.heads.items()}
        logits, notes = self.model.decode(tokens.to(audio.device), audio, want=want)
        weights = torch.cat([notes[layer]["cross"]["weights"] for layer in self.heads], dim=1)  # (B, heads, L, S)
        for n, row in enumerate(rows):
            yield logits[n, : len(row)], weights[n, :, : len(row)]

    def _timings(
        self, logits: Tensor, weights: Tensor, prompt: int, text: list[int], frames: int, language: str
    ) -> list[Timing]:
        """The words of one window, from its logits (L, V) and weights (heads, L, S); `prompt` tokens stand before."""
        words, tokens = self.tokenizer.split_to_word_tokens([*text, self.tokenizer.eot], language)
        before = prompt - 1  # what the last token of the prompt looks at is where the first word begins
        path = dtw(-_focus(weights[..., : frames // STRIDE])[before:-1].cpu().numpy())
        reached = np.flatnonzero(np.diff(path[0], prepend=-1))  # the steps at which the path gets to the next token
        times = path[1][reached] / STEPS_PER_SECOND
        chosen = torch.tensor(text, device=logits.device)[:, None]
        likely = logits[before:-2, : self.tokenizer.eot].float().softmax(-1).gather(1, chosen)[:, 0].tolist()
        timings = []
        first = 0
        for word, part in zip(words[:-1], tokens[:-1], strict=True):  # the last is the end token
            end = first + len(part)
            probability = float(np.mean(likely[first:end]))
            timings.append(Timing(word, tuple(part), float(times[first]), float(times[end]), probability))
            first = end
        return timings


def _focus(weights: Tensor) -> Tensor:
    """How much more than to others each token looks at each position: (heads, L, S) -> (L, S)."""
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, correction=0)
    scaled = ((weights - mean) / std).nan_to_num(0.0, 0.0, 0.0)  # all tokens may look alike at a position
    return median_filter(scaled, FILTER).mean(0)


def median_filter(x: Tensor, width: int) -> Tensor:
    """The median of `width` values around each value of the last axis, which is mirrored at its ends.

    An axis that is too short to be mirrored stays as it is. Raises ValueError for a width that is not odd.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"the width of a median filter must be odd, not {width}")
    half, length = width // 2, x.shape[-1]
    if length <= half:
        return x
    padded = F.pad(x.reshape(1, -1, length), (half, half), mode="reflect").reshape(*x.shape[:-1], -1)
    shifted = [padded[..., n : n + length] for n in range(width)]
    # sorted by exchanges of neighbours: on whole tensors that is many times faster than sort()
    for turn in range(width):
        for n in range(turn % 2, width - 1, 2):
            low, high = shifted[n], shifted[n + 1]
            shifted[n], shifted[n + 1] = torch.minimum(low, high), torch.maximum(low, high)
    return shifted[half]


def dtw(costs: np.ndarray) -> np.ndarray:
    """The cheapest path from the first to the last cell of `costs` (N, M), by steps down, right, or both.

    Returns the cells on it: rows and columns (2, steps).
    """
    rows, columns = costs.shape
    # total[d, i] is the cost of the path to cell (i, d - i), counted from 1: each anti-diagonal follows from two before
    total = np.full((rows + columns + 1, rows + 1), np.inf, costs.dtype)
    for i in range(rows):
        total[i + 2 : i + 2 + columns, i + 1] = costs[i]
    total[0, 0] = 0
    for d in range(2, rows + columns + 1):
        cheapest = np.minimum(total[d - 1, :-1], total[d - 1, 1:])
        total[d, 1:] += np.minimum(cheapest, total[d - 2, :-1], out=cheapest)
    cells = []
    i, j = rows, columns
    while i > 0 and j > 0:
        cells.append((i - 1, j - 1))
        d = i + j
        both, down, right = total[d - 2, i - 1], total[d - 1, i - 1], total[d - 1, i]
        if both < down and both < right:
            i, j = i - 1, j - 1
        elif down < right:
            i -= 1
        else:
            j -= 1
    return np.array(cells[::-1]).T
