"""Transformer blocks in 8-bit integers, with scales found once on examples.

A scale that is known beforehand lets a norm write integers and a feed-forward layer hand integers to the next: no pass
over the activations is only there to look for their range. Scales of channels are evened out between a norm and the
weights behind it (SmoothQuant, arXiv:2211.10438, equation 4), so that a few large channels don't cost the others their
resolution.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .block import Residual, Stochastic
from .branch import last_layer
from .feedforward import GatedMlp, Mlp
from .frozen import Frozen
from .norm import LayerNorm

__all__ = ["CodedLinear", "CodedNorm", "Ranges", "coded", "has_codes", "observed"]

TINY = 1e-12
MIDDLE = 128  # the integer that means 0 where both signs occur: oneDNN has no fast kernel for signed inputs without AMX
LOWEST_GELU = 0.17  # GELU is nowhere below -0.17


def has_codes() -> bool:
    """Whether PyTorch has the 8-bit layers of oneDNN for this processor."""
    return "onednn" in torch.backends.quantized.supported_engines


class Ranges:
    """The largest magnitudes that were seen of each channel of the inputs of linear layers."""

    def __init__(self) -> None:
        self.channels: dict[nn.Module, Tensor] = {}
        self.most: dict[nn.Module, float] = {}

    def see(self, layer: nn.Module, x: Tensor) -> None:
        """Note an input x (..., in_features)."""
        rows = x.detach().float().flatten(0, -2)
        found = rows.abs().amax(0)
        before = self.channels.get(layer)
        self.channels[layer] = found if before is None else torch.maximum(found, before)
        self.most[layer] = max(self.most.get(layer, 0.0), float(rows.max()))


@contextmanager
def observed(model: nn.Module) -> Iterator[Ranges]:
    """Note the inputs of all plain linear layers of the model while the ``with`` lasts."""
    ranges = Ranges()
    hooks = [
        module.register_forward_pre_hook(lambda layer, given: ranges.see(layer, given[0]))
        for module in model.modules()
        if type(module) is nn.Linear
    ]
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()


class CodedNorm(nn.Module):
    """A LayerNorm that returns 8-bit integers, of which 128 means 0.

    Args:
        norm: computed in float32; its weights are no buffers, which a conversion of the model would round.
        scales: (dim,) what one step of the integers is worth in each channel.
    """

    def __init__(self, norm: nn.LayerNorm, scales: Tensor) -> None:
        super().__init__()
        self.shape, self.eps = norm.normalized_shape, norm.eps
        weight = torch.ones_like(scales) if norm.weight is None else norm.weight.detach().float()
        self.weight = weight / scales
        self.bias = None if norm.bias is None else norm.bias.detach().float() / scales

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) bfloat16 to uint8."""
        # float32: its elementwise kernels take half the time of those of bfloat16, the conversion included
        y = F.layer_norm(x.float(), self.shape, self.weight, self.bias, self.eps)
        # PyTorch converts to int8 several times as fast as to uint8
        return y.clamp_(-127, 127).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(MIDDLE)


class CodedLinear(Frozen):
    """A linear layer of 8-bit integers whose input's scale is known.

    Args:
        linear: the layer that it approximates.
        scale: what one step of the input's integers is worth; channels with scales of their own are in ``even``.
        zero: the integer that means 0.
        even: (in_features,) the input's channels come divided by these.
        gelu: None, or how GELU follows: ``"none"`` exactly, ``"tanh"`` approximately.
        returned: (scale, zero) of a uint8 result; None returns bfloat16.
    """

    def __init__(
        self,
        linear: nn.Linear,
        scale: float,
        zero: int = MIDDLE,
        even: Tensor | None = None,
        gelu: str | None = None,
        returned: tuple[float, int] | None = None,
    ) -> None:
        super().__init__(linear)
        weight = linear.weight.detach().float()
        weight = weight if even is None else weight * even
        self.scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        codes = (weight / self.scales[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(codes, None)
        self.zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self.offset = None if linear.bias is None else linear.bias.detach().float()
        self.scale, self.zero = scale, zero
        self.after = ("none", "") if gelu is None else ("gelu", gelu)
        self.returned = (1.0, 0, torch.bfloat16) if returned is None else (*returned, torch.uint8)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) uint8 to (..., out_features)."""
        scale, zero, dtype = self.returned
        weight = (self.weight, self.scales, self.zeros)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, self.scale, self.zero, *weight, self.offset, scale, zero, dtype, self.after[0], [], self.after[1]
        )
        return y

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        """The bfloat16 result for x, plus ``other`` of its shape."""
        weight = (self.weight, self.scales, self.zeros)
        y: Tensor = torch.ops.onednn.qlinear_pointwise.binary(
            *(x, self.scale, self.zero, *weight, other, self.offset),
            *(1.0, 0, torch.bfloat16, 1.0, 0, "add", 1.0, "none", [], ""),
        )
        return y


def coded(model: nn.Module, ranges: Ranges, only: Callable[[nn.Linear], bool]) -> nn.Module:
    """Put 8-bit layers in the place of the norms and linear layers of pre-norm branches; all else stays.

    Args:
        model: the one that ``ranges`` were observed of; it is changed.
        ranges: of examples.
        only: whether a linear layer may be replaced.
    """
    for branch in list(model.modules()):
        if isinstance(branch, Residual) and type(branch) in (Residual, Stochastic) and type(branch.norm) is LayerNorm:
            _branch(branch, ranges, only)
    return model


def _branch(branch: Residual, ranges: Ranges, only: Callable[[nn.Linear], bool]) -> None:
    """Replace the layers of one branch, if it is of a kind that is known and was observed."""
    fn, last = branch.fn, last_layer(branch.fn)
    if last is None:
        return
    places: list[tuple[nn.Module, str]] = [(fn, "fc1")]
    if isinstance(fn, Attention):
        places = [(part, "proj") for part in (fn.q, fn.k, fn.v)]
    elif isinstance(fn, GatedMlp):
        places = [(fn, "gate"), (fn, "up")]
    first = [getattr(owner, name) for owner, name in places]
    final = getattr(fn, last)
    if not all(type(layer) is nn.Linear and layer in ranges.channels and only(layer) for layer in [*first, final]):
        return
    gelu, returned = None, None
    if isinstance(fn, Mlp) and isinstance(fn.act, nn.GELU):
        # after GELU nearly all of the range is positive: unsigned integers resolve it twice as finely
        scale = max(ranges.most[final] + LOWEST_GELU, TINY) / 255
        gelu, returned = fn.act.approximate, (scale, round(LOWEST_GELU / scale))
        fn.act = nn.Identity()
        fn.fc2 = CodedLinear(final, *returned)  # type: ignore[assignment]
    seen = torch.stack([ranges.channels[layer] for layer in first]).amax(0)
    weights = torch.stack([layer.weight.detach().float().abs().amax(0) for layer in first]).amax(0)
    even = (seen.clamp_min(1e-5) / weights.clamp_min(1e-5)).sqrt()
    step = max(float((seen / even).max()), TINY) / 127
    branch.norm = CodedNorm(branch.norm, even * step)  # type: ignore[arg-type]
    for (owner, name), layer in zip(places, first, strict=True):
        setattr(owner, name, CodedLinear(layer, step, even=even, gelu=gelu, returned=returned))
