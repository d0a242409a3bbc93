"""Which heads of Whisper's cross-attention follow the audio word by word, for each of OpenAI's checkpoints.

Source: openai/whisper ``whisper/__init__.py``, ``_ALIGNMENT_HEADS``; chosen there by correlation with known word times.
"""

from typing import NamedTuple

from audio.whisper import WhisperConfig

__all__ = ["ALIGNMENT_HEADS", "Known", "Pairs", "alignment_heads"]

Pairs = tuple[tuple[int, int], ...]
"""Layers of the decoder, each with a head in it, both counted from 0."""


class Known(NamedTuple):
    """A checkpoint's decoder, by which it is recognised, and its heads."""

    layers: int
    heads: int
    vocab: int
    pairs: Pairs


def _known(layers: int, heads: int, vocab: int, pairs: str) -> Known:
    """`pairs` are written as ``layer:head,head layer:head``."""
    parts = (part.split(":") for part in pairs.split())
    return Known(
        layers, heads, vocab, tuple((int(layer), int(head)) for layer, found in parts for head in found.split(","))
    )


ALIGNMENT_HEADS = {
    "tiny.en": _known(4, 6, 51_864, "1:0 2:0,5 3:0,1,2,3,4"),
    "tiny": _known(4, 6, 51_865, "2:2 3:0,2,3,4,5"),
    "base.en": _known(6, 8, 51_864, "3:3 4:7 5:1,5,7"),
    "base": _known(6, 8, 51_865, "3:1 4:2,3,7 5:1,2,4,6"),
    "small.en": _known(12, 12, 51_864, "6:6 7:0,3,8 8:2,5,7 9:0,4,8,10 10:0,1,2,3,6,11 11:2,4"),
    "small": _known(12, 12, 51_865, "5:3,9 8:0,4,7,8 9:0,7,9 10:5"),
    "medium.en": _known(24, 16, 51_864, "11:4 14:1,12,14 15:4 16:0,4,9 17:12,14 18:7,10,15 20:0,3,9,14 21:12"),
    "medium": _known(24, 16, 51_865, "13:15 15:4,15 16:1 20:0 23:4"),
    "large-v1": _known(32, 20, 51_865, "9:19 11:2,4,17 22:7,11,17 23:2,15"),
    "large-v2": _known(
        *(32, 20, 51_865),
        "10:12 13:17 16:11,12,13 17:15,16 18:4,11,19 19:11 21:2,3 22:3,9,12 23:5,7,13 25:5 26:1,12 27:15",
    ),
    "large-v3": _known(32, 20, 51_866, "7:0 10:17 12:18 13:12 16:1 17:14 19:11 21:4 24:1 25:6"),
    "large-v3-turbo": _known(4, 20, 51_866, "2:4,11 3:3,6,11,14"),
}


def alignment_heads(config: WhisperConfig, name: str = "") -> Pairs:
    """The heads to align words with.

    They are those that the config names, as far as the decoder has them (a student has fewer layers); else those of
    OpenAI's checkpoint called `name`, or of the same shape (of several, the latest), since fine-tuning leaves them what
    they are; else all heads of the last half of the layers.
    """
    named = tuple(
        (layer, head)
        for layer, head in config.alignment_heads
        if layer < config.text_layers and head < config.text_heads
    )
    if named:
        return named
    shape = (config.text_layers, config.text_heads, config.vocab)
    alike = {known: heads for known, heads in ALIGNMENT_HEADS.items() if heads[:3] == shape}
    if alike:
        return alike.get(name, list(alike.values())[-1]).pairs
    layers = range(config.text_layers // 2, config.text_layers)
    return tuple((layer, head) for layer in layers for head in range(config.text_heads))
