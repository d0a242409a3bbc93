"""One model, made fast for inference on the device it is on.

On a processor, PyTorch's linear layer reorders its weight in every call. Here the weight is reordered once, when the
model is loaded; GELU and the shortcut are computed while a result is written. What is returned computes; it is neither
trained nor saved: keep the exact model for that.
"""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from core.errors import InputError

from .blocked import in_blocks
from .branch import folded, joined
from .frozen import Frozen
from .int8 import coded, has_codes, observed
from .rowwise import Int8Linear, has_integers
from .tiled import int8_linear

__all__ = ["Int8Linear", "PackedLinear", "Precision", "fast", "native", "packs", "replaced"]

Precision = Literal["auto", "float32", "bfloat16", "int8"]


class PackedLinear(Frozen):
    """A linear layer with oneDNN's order of the weight.

    Args:
        linear: the layer that it computes; its weight is bfloat16 or float32, and on a processor.

    Attributes:
        gelu: None, or how GELU follows: ``"none"`` exactly, ``"tanh"`` approximately.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.gelu: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features), both of the weight's type."""
        name, approximate = ("none", "") if self.gelu is None else ("gelu", self.gelu)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], approximate)
        return y

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        """The result for x, plus ``other`` of its shape."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")
        return y


def replaced(
    model: nn.Module, make: Callable[[nn.Linear], nn.Module], only: Callable[[str, nn.Linear], bool]
) -> nn.Module:
    """Put ``make(linear)`` in the place of every plain ``nn.Linear`` for whose (name, layer) ``only`` holds.

    Subclasses stay: they compute something else, or are asked for their weights.
    """
    for prefix, module in list(model.named_modules()):
        if isinstance(module, nn.MultiheadAttention):  # it reads its projection's weight itself
            continue
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and only(f"{prefix}.{name}".lstrip("."), child):
                setattr(module, name, make(child))
    return model


def fast(
    model: nn.Module, precision: Precision = "auto", skip: tuple[str, ...] = (), calibrate: Tensor | None = None
) -> nn.Module:
    """Return a copy of the model, for inference in the given precision.

    Args:
        model: float32 and on its device.
        precision: ``float32`` differs from the model by nothing but the order of sums; ``bfloat16`` converts all
            weights; both pack the linear layers on a processor;
            ``int8`` does the same with 8-bit integers inside the linear layers (processors only); ``auto`` is
            ``bfloat16`` where the device multiplies it natively, else ``float32``. Inputs are of the model's type.
        skip: parts of names of linear layers that stay plain, e.g. ``("head",)`` under ``int8``.
        calibrate: for ``int8``: a few dozen typical inputs of the model, in its type. The blocks then use fixed scales
            found on these, which is much faster than looking for scales in each call; layers outside of the blocks
            are computed in bfloat16.

    Raises:
        InputError: if the precision is not one of these, or ``int8`` is asked of another device than a processor, or
            of one for which PyTorch has no such layers.
    """
    choices = ("auto", "float32", "bfloat16", "int8")
    if precision not in choices:
        raise InputError(f"no precision {precision!r}: choose one of {', '.join(choices)}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if precision == "auto":
        precision = "bfloat16" if native(device) else "float32"
    if precision == "int8" and device.type != "cpu":
        raise InputError(f"int8 is for processors, but the model is on {device.type}: choose bfloat16")
    if precision == "int8" and not (has_integers() if calibrate is None else has_codes()):
        raise InputError("this PyTorch has no 8-bit layers for this processor: choose auto, bfloat16 or float32")
    model = folded(copy.deepcopy(model).eval().requires_grad_(False))

    def chosen(name: str, linear: nn.Linear) -> bool:
        return not any(part in name for part in skip)

    if precision == "int8" and calibrate is not None:
        with observed(model) as ranges, torch.no_grad():
            model(calibrate)
        left = {module for name, module in model.named_modules() if any(part in name for part in skip)}
        coded(model, ranges, lambda linear: linear not in left)
    if precision != "float32":
        model = model.bfloat16()
    if device.type != "cpu":
        return model
    if precision != "float32":
        in_blocks(model)
    if precision == "int8" and calibrate is None:
        return joined(replaced(model, int8_linear, chosen))
    if packs(torch.float32 if precision == "float32" else torch.bfloat16):
        replaced(model, PackedLinear, chosen)
    return joined(model)


def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes linear layers of a type on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def native(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 at least twice as fast as float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
