"""Whisper made fast for inference on the device that it is on.

On a processor linear layers compute in 8-bit integers with a scale for each token, or those of the encoder in bfloat16:
what is heard in a window stays the same whatever is heard beside it.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from audio.compiled import CompiledDecoder
from audio.fast_encoder import TiledEncoder
from audio.whisper import AudioEncoder, Whisper
from core import simd
from core.errors import InputError
from core.nn import Ctx, Out
from core.nn.blocked import in_blocks
from core.nn.branch import InRows, Overwriting
from core.nn.precision import fast, replaced
from core.nn.rowwise import Int8Linear, has_integers, prefers_integers

__all__ = ["PRECISIONS", "Precision", "chosen_precision", "fast_whisper"]

Precision = Literal["auto", "float32", "int8", "float16", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "int8", "float16", "bfloat16")


def chosen_precision(precision: Precision, device: torch.device) -> Precision:
    """What ``auto`` stands for on a device; any other precision is itself.

    Raises:
        InputError: for a precision that there isn't, or that the device can't do.
    """
    cpu = device.type == "cpu"
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        if cpu:
            return "int8" if prefers_integers() else "float32"
        return "float16" if device.type == "cuda" else "float32"
    if precision == "int8" and not (cpu and has_integers()):
        raise InputError("int8 is for x86 processors: choose auto or float32")
    if precision in ("float16", "bfloat16") and cpu:
        raise InputError(f"{precision} is for GPUs: on a processor choose auto, int8 or float32")
    return precision


@torch.no_grad()
def fast_whisper(model: Whisper, precision: Precision = "auto") -> Whisper:
    """Make a model fast, in place: it has the same methods, and is neither trained nor saved from then on.

    Layers are replaced one by one, so that the exact model and the fast one are never in memory together.

    Args:
        model: float32, on its device.
        precision: ``float32`` leaves the model as it is; ``int8`` is for processors, ``float16`` and ``bfloat16`` are
            for GPUs; ``auto`` is what is fastest on the device.

    Raises:
        InputError: for a precision that there isn't, or that the device can't do.
    """
    precision = chosen_precision(precision, next(model.parameters()).device)
    model.eval().requires_grad_(False)
    if precision == "float32":
        return model
    if precision != "int8":
        return model.to(torch.float16 if precision == "float16" else torch.bfloat16)
    model.encoder = _fast_encoder(model.encoder)  # type: ignore[assignment]
    model.decoder = CompiledDecoder(model.decoder)  # type: ignore[assignment]
    return model


def _fast_encoder(encoder: AudioEncoder) -> nn.Module:
    """In 8-bit integers where they are much faster than bfloat16, which has half of their error."""
    in_blocks(encoder)
    if simd.available():
        return TiledEncoder(encoder)
    if torch.cpu._is_avx512_bf16_supported():
        return fast(encoder, "bfloat16")
    replaced(encoder, Int8Linear, lambda name, linear: True)
    for block in encoder.blocks:
        block.get_submodule("mlp.fn").act = Overwriting("none")
        block.mlp = InRows(block.get_submodule("mlp"))
    return _Halved(encoder)


class _Halved(nn.Module):
    """An encoder whose result is bfloat16, and with it the keys and values that each step of the decoder reads."""

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, mel: Tensor, ctx: Ctx = Ctx()) -> Out:
        """Encode log-mel frames (B, mels, frames) -> (B, frames / 2, audio_dim)."""
        x, notes = self.encoder(mel, ctx)
        return Out(x.to(torch.bfloat16), notes)
