"""A DiT made fast for inference on the device that it is on, for solvers that compute in float32."""

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from core import simd
from core.errors import InputError
from core.nn import Ctx, Mlp, Modulated, Tokens
from core.nn.blocked import in_blocks
from core.nn.branch import with_gelu
from core.nn.precision import PackedLinear, Precision, fast, native, packs, replaced
from core.nn.rowwise import has_integers
from core.nn.tiled import int8_linear
from diffusion.condition import Condition, Text, joined
from diffusion.dit import DiT
from diffusion.mmdit import MMDiT

from .caching import Reuse
from .modulations import Gated, Modulations

__all__ = ["Quick", "QuickDiT", "first_weight", "quick"]


class Quick(nn.Module):
    """A model with weights of another type; it takes and returns float32.

    Args:
        model: as :class:`diffusion.dit.DiT`.

    Attributes:
        precision: of its weights, a word of :func:`quick`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.config = model.config
        self.dtype = first_weight(model).dtype
        self.precision = str(self.dtype).removeprefix("torch.")

    def prepare(self, times: Tensor, condition: Condition) -> None:
        """Nothing is to be prepared."""

    def forward(self, x: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """See :meth:`diffusion.dit.DiT.forward`."""
        if isinstance(condition, Text):
            states, pooled = (part.to(self.dtype) for part in condition[:2])
            condition = Text(states, pooled, condition.lengths)
        y: Tensor = self.model(x.to(self.dtype), t, condition)
        return y.float()

    def unconditional(self, condition: Condition) -> Condition:
        """See :meth:`diffusion.dit.DiT.unconditional`."""
        empty: Condition = self.model.unconditional(condition)
        return empty


class QuickDiT(nn.Module):
    """A DiT on a processor.

    What is precomputed, and added or multiplied in one pass, changes nothing but the order of sums. The result of a row
    doesn't depend on the rows beside it.

    Args:
        model: float32; it is copied.
        make: what stands for the linear layers of the blocks, which see nearly all of the work.
        precision: what they compute in, a word of :func:`quick`.
        reuse: of what the blocks made in the steps before.
        dtype: of the tokens between the blocks.
    """

    def __init__(
        self,
        model: DiT,
        make: Callable[[nn.Linear], nn.Module],
        precision: str,
        reuse: Reuse | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config = model.config
        self.precision = precision
        self.dtype = dtype
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.modulations = Modulations(self.model)
        blocks = self.model.blocks.to(dtype)
        replaced(blocks, make, lambda name, linear: True)
        for block in blocks:
            for name, branch in list(block.named_children()):
                assert isinstance(branch, Modulated)
                if isinstance(branch.fn, Mlp) and isinstance(branch.fn.act, nn.GELU):
                    with_gelu(branch.fn, branch.fn.act.approximate)
                setattr(block, name, Gated(branch))
        self.reuse = reuse

    def prepare(self, times: Tensor, condition: Condition) -> None:
        """Announce a run of a solver over rows of samples; not needed, but faster.

        Args:
            times: (S,) at which the model will be asked, in their order.
            condition: with all classes that will be asked for; the "no class" of guidance is added.
        """
        self.modulations.prepare(times, joined([condition, self.unconditional(condition)]))
        if self.reuse is not None:
            self.reuse.begin()

    @torch.inference_mode()
    def forward(self, x: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """See :meth:`diffusion.dit.DiT.forward`."""
        model = self.model
        grid = model.patch.grid(x)
        cond = self.modulations(t, condition)
        ctx = Ctx(Tokens(coords=model.places(grid, x)), cond=cond.to(self.dtype))
        tokens = model.embed(x.float()).to(self.dtype)
        tokens = model.blocks(tokens, ctx).x if self.reuse is None else self.reuse(model.blocks, tokens, ctx)
        return model.picture(model.head(tokens.float(), cond), grid)

    def unconditional(self, condition: Condition) -> Condition:
        """See :meth:`diffusion.dit.DiT.unconditional`."""
        return self.model.unconditional(condition)


def first_weight(model: nn.Module) -> Tensor:
    """A floating-point tensor of a model, for its type and its device; packed layers have only biases to show."""
    return next(tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())


@torch.no_grad()
def quick(model: DiT | MMDiT, precision: Precision = "auto", reuse: Reuse | None = None) -> Quick | QuickDiT:
    """Return a copy for inference.

    Args:
        model: float32, on its device.
        precision: ``float32`` differs from the model by nothing but the order of sums; ``int8`` computes the linear
            layers of a DiT's blocks in 8-bit integers with a scale for each token, and attention in bfloat16 where that
            is faster (processors only); ``bfloat16`` converts all weights, of a DiT on a processor those of its
            blocks; ``auto`` is ``int8`` where the processor has the instructions of :mod:`core.simd`, else
            ``bfloat16`` where the device multiplies it natively, else ``float32``.
        reuse: see :mod:`diffusion.speed.caching`; for a DiT on a processor.

    Raises:
        InputError: as :func:`core.nn.precision.fast`, or if there can be no reuse.
    """
    device = first_weight(model).device
    if isinstance(model, MMDiT) or device.type != "cpu":
        return _plain(model, precision, reuse)
    if precision == "auto" and simd.available():
        precision = "int8"
    if precision == "int8":
        if not has_integers():
            raise InputError("this PyTorch has no 8-bit layers for this processor: choose auto, bfloat16 or float32")
        made = QuickDiT(model, int8_linear, precision, reuse)
        in_blocks(made)
        return made
    if precision == "auto":
        precision = "bfloat16" if native(device) else "float32"
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    made = QuickDiT(model, PackedLinear if packs(dtype) else _same, precision, reuse, dtype)
    if precision == "bfloat16":
        in_blocks(made)
    return made


def _plain(model: DiT | MMDiT, precision: Precision, reuse: Reuse | None) -> Quick:
    if reuse is not None:
        raise InputError("blocks are passed over by a DiT on a processor only: leave out reuse")
    return Quick(fast(model, precision))


def _same(linear: nn.Linear) -> nn.Module:
    return linear
